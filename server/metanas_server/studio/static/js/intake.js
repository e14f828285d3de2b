// Files into pictures, pictures into classes, and the marks that compare them.

import { byClass } from './files.js';
import { makePictures } from './picture.js';
import { classNamed, emit, nextId, pictures, state } from './state.js';
import { T } from './strings.js';

const HUES = [172, 250, 35, 320, 120, 210, 60, 285, 15, 145];
const SHOWN_NAMES = 4;
const HEIC = /\.hei[cf]$/i;

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

/** Add files to the classes of their folders, or all to `target`. Returns what was left out. */
export async function addFiles(files, target = null, onProgress = () => {}) {
  const groups = target ? new Map([[target.name, files]]) : byClass(files);
  const unreadable = [];
  let done = 0;
  for (const [name, group] of groups) {
    if (name === null) continue;
    let kind = target;
    await makePictures(group, (picture, file) => {
      onProgress((done += 1), files.length);
      if (picture === null) {
        unreadable.push(lastPart(file));
        return;
      }
      const label = name || T.collect.loose;
      kind ??= classNamed(label) ?? addClass(label);
      place(picture, kind);
    });
  }
  changed();
  return { unreadable, beside: (groups.get(null) ?? []).map(lastPart) };
}

/** Return the name of a file. */
export const lastPart = ({ path }) => path.split('/').pop();

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
  URL.revokeObjectURL(picture.thumb);
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

/** Return sentences about files that were left out. */
export function sentenceAbout({ unreadable, beside = [] }) {
  const list = (names) => names.slice(0, SHOWN_NAMES).join(', ') + (names.length > SHOWN_NAMES ? T.collect.andMore(names.length - SHOWN_NAMES) : '');
  const sentences = [];
  if (unreadable.length) sentences.push(T.collect.unreadable(unreadable.length, list(unreadable)));
  if (unreadable.some((name) => HEIC.test(name))) sentences.push(T.collect.heic);
  if (beside.length) sentences.push(T.collect.beside(beside.length, list(beside)));
  return sentences.join(' ');
}
