// Files into pictures, pictures into classes, and the marks that compare them.

import { byFolder } from './files.js';
import { makePictures } from './picture.js';
import { classNamed, emit, nextId, pictures, state } from './state.js';
import { T } from './strings.js';

const HUES = [172, 250, 35, 320, 120, 210, 60, 285, 15, 145];
const SHOWN_NAMES = 4;

/** Add an empty class. */
export function addClass(name = '') {
  const free = (index) => (classNamed(T.collect.className(index)) ? free(index + 1) : T.collect.className(index));
  const hue = HUES[state.classes.length % HUES.length];
  const kind = { id: nextId(), name: name || free(state.classes.length + 1), hue, pictures: [] };
  state.classes.push(kind);
  emit('class', kind);
  return kind;
}

/** Remove a class with its images. */
export function removeClass(kind) {
  state.classes = state.classes.filter((each) => each !== kind);
  emit('class-removed', kind);
  changed();
}

/** Add files to the classes of their folders; loose files go to `target`. Returns what was unreadable. */
export async function addFiles(files, target = null, onProgress = () => {}) {
  const unreadable = [];
  const jobs = [...byFolder(files)].map(([folder, group]) => ({ folder, group }));
  let done = 0;
  for (const { folder, group } of jobs) {
    let kind = target;
    await makePictures(group, (picture, file) => {
      onProgress((done += 1), files.length);
      if (picture === null) {
        unreadable.push(file.path.split('/').pop());
        return;
      }
      const name = folder || T.collect.loose;
      kind ??= classNamed(name) ?? addClass(name);
      place(picture, kind);
    });
  }
  changed();
  return unreadable;
}

/** Put a picture into a class. */
export function place(picture, kind) {
  kind.pictures.push(picture);
  emit('picture', { picture, kind });
}

/** Move a picture to another class. */
export function move(picture, target) {
  const from = state.classes.find((kind) => kind.pictures.includes(picture));
  if (!from || from === target) return;
  from.pictures = from.pictures.filter((each) => each !== picture);
  picture.takenFor = '';
  picture.marks.delete('wrong');
  emit('picture-removed', { picture, kind: from });
  place(picture, target);
  changed();
}

/** Remove a picture. */
export function remove(picture) {
  const from = state.classes.find((kind) => kind.pictures.includes(picture));
  from.pictures = from.pictures.filter((each) => each !== picture);
  emit('picture-removed', { picture, kind: from });
  changed();
}

/** Mark duplicates again and tell that images or names have changed. */
export function changed() {
  const first = new Map();
  for (const { picture } of pictures()) {
    if (first.has(picture.hash)) {
      picture.marks.add('duplicate');
      first.get(picture.hash).marks.add('duplicate');
    } else {
      picture.marks.delete('duplicate');
      first.set(picture.hash, picture);
    }
  }
  state.dirty = true;
  emit('images');
}

/** Return the classes, other than its own, that have the same image. */
export function twins(picture) {
  return pictures().filter(({ picture: other }) => other !== picture && other.hash === picture.hash);
}

/** Return a sentence about files that could not be read. */
export function sentenceAbout(unreadable) {
  const names = unreadable.slice(0, SHOWN_NAMES).join(', ');
  const more = unreadable.length - SHOWN_NAMES;
  return `${T.collect.unreadable(unreadable.length, names)}${more > 0 ? T.collect.andMore(more) : ''}.`;
}
