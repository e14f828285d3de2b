// Collect images: a card for each class, with names, thumbnails and marks.

import { cameraDialog } from './camera.js';
import { button, h, icon, say } from './dom.js';
import { choose, dropzone } from './dropzone.js';
import { addClass, addFiles, changed, move, place, removeClass, sentenceAbout } from './intake.js';
import { notify } from './notices.js';
import { makePicture, thumbnail } from './picture.js';
import { pictureDialog } from './picture-dialog.js';
import { on, pictures, state } from './state.js';
import { T, count } from './strings.js';

const MOVED = 'text/x-metanas-picture';
const FEW = 3; // images; below, more of them help most
const list = h('div', { class: 'classes' });
const progress = h('p', { class: 'reading', hidden: true });
const cards = new Map(); // class id -> parts of its card
const thumbs = new Map(); // picture id -> button

/** Take files that were dropped or chosen; `target` is their class, null stands for their folders. */
export async function takeFiles(promise, target = null) {
  try {
    const files = await promise;
    if (!files.length) return void notify(T.collect.noImages);
    progress.hidden = false;
    const before = pictures().length;
    const leftOut = await addFiles(files, target, (done, all) => {
      progress.textContent = T.collect.reading(done, all);
    });
    const sentence = sentenceAbout(leftOut);
    if (sentence) notify(sentence);
    say(T.collect.added(pictures().length - before, target ? 1 : state.classes.length));
  } catch (error) {
    notify(T.collect.badZip, 'bad');
    console.error(error);
  } finally {
    progress.hidden = true;
  }
}

/** Return the section. */
export function collectSection(startOver) {
  const bar = h(
    'div',
    { class: 'bar' },
    h('h2', { id: 'collect' }, T.collect.title),
    h('span', { class: 'grow' }),
    button(T.collect.more, 'folder', () => choose(takeFiles, { folder: true }), { class: 'button quiet' }),
    button(T.collect.startOver, null, startOver, { class: 'button quiet' }),
  );
  const add = button(T.collect.add, 'plus', () => cards.get(addClass().id).name.select(), { class: 'add-class' });
  return h('section', { class: 'collect', 'aria-labelledby': 'collect' }, bar, progress, list, add);
}

on('class', (kind) => {
  const card = makeCard(kind);
  cards.set(kind.id, card);
  list.append(card.element);
});

on('class-removed', (kind) => {
  cards.get(kind.id).element.remove();
  cards.delete(kind.id);
});

on('picture', ({ picture, kind }) => {
  const thumb = makeThumb(picture);
  thumbs.set(picture.id, thumb);
  cards.get(kind.id).grid.append(thumb);
});

on('picture-removed', ({ picture }) => {
  thumbs.get(picture.id)?.remove();
  thumbs.delete(picture.id);
});

on('images', refresh);
on('checked', refresh);

function refresh() {
  const most = state.server?.limits.max_shots ?? Infinity;
  for (const kind of state.classes) {
    const { number, note, grid } = cards.get(kind.id);
    number.textContent = count.images(kind.pictures.length);
    note.textContent = remark(kind, most);
    grid.classList.toggle('vacant', !kind.pictures.length);
    kind.pictures.forEach((picture, index) => dress(thumbs.get(picture.id), picture, kind, index, most));
  }
}

function remark(kind, most) {
  const marked = (mark) => kind.pictures.filter((picture) => picture.marks.has(mark)).length;
  const parts = [];
  if (kind.pictures.length > most) parts.push(T.collect.tooMany(most));
  if (marked('duplicate')) parts.push(T.collect.duplicates(marked('duplicate')));
  if (marked('blank')) parts.push(T.collect.blanks(marked('blank')));
  if (!parts.length && kind.pictures.length && kind.pictures.length < FEW) parts.push(T.collect.weak);
  return parts.join(' · ');
}

function dress(thumb, picture, kind, index, most) {
  const marks = [...picture.marks].map((mark) => T.collect.marks[mark]);
  thumb.setAttribute('aria-label', T.collect.thumb(kind.name, index + 1, marks));
  thumb.title = marks.join(', ');
  thumb.className = ['thumb', ...picture.marks, ...(index >= most ? ['unused'] : [])].join(' ');
}

function makeThumb(picture) {
  const thumb = h('button', { type: 'button', class: 'thumb', draggable: 'true', onclick: () => pictureDialog(picture) }, thumbnail(picture));
  thumb.addEventListener('dragstart', (event) => event.dataTransfer.setData(MOVED, picture.id));
  return thumb;
}

function makeCard(kind) {
  const number = h('span', { class: 'count' }, count.images(0));
  const note = h('p', { class: 'remark' });
  const grid = h('div', { class: 'thumbs vacant', 'data-empty': T.collect.empty });
  const name = h('input', { class: 'class-name', 'aria-label': T.collect.nameLabel, value: kind.name, maxlength: 80, spellcheck: 'false' });
  name.addEventListener('change', () => {
    kind.name = name.value.trim();
    changed();
  });
  const bin = button('', 'bin', () => removeClass(kind), { class: 'icon-button', 'aria-label': T.collect.removeClass(kind.name) });
  const head = h('div', { class: 'card-head' }, h('span', { class: 'dot' }), name, number, bin);
  const files = button(T.collect.addImages, 'plus', () => choose((found) => takeFiles(found, kind)), { class: 'button small', 'aria-label': T.collect.addImagesTo(kind.name) });
  const camera = button(T.collect.camera, 'camera', () => collectWithCamera(kind), { class: 'button small', 'aria-label': T.collect.cameraFor(kind.name) });
  const element = h('article', { class: 'card class', style: { '--hue': kind.hue } }, head, grid, h('div', { class: 'card-foot' }, files, camera, note));
  dropzone(element, (found) => takeFiles(found, kind));
  takeMoved(element, kind);
  return { element, grid, name, note, number };
}

function takeMoved(element, kind) {
  const isPicture = (event) => event.dataTransfer.types.includes(MOVED);
  element.addEventListener('dragover', (event) => isPicture(event) && event.preventDefault());
  element.addEventListener('drop', (event) => {
    if (!isPicture(event)) return;
    event.preventDefault();
    const found = pictures().find(({ picture }) => String(picture.id) === event.dataTransfer.getData(MOVED));
    if (found) move(found.picture, kind);
  });
}

function collectWithCamera(kind) {
  let made = 0;
  cameraDialog(kind.name, async (blob) => {
    made += 1;
    place(await makePicture({ path: `webcam ${made}.jpg`, blob }), kind);
    changed();
  });
}

/** Return the page's first view: a large place to drop images. */
export function heroSection() {
  const byHand = () => [0, 1].forEach(() => addClass());
  const zone = h(
    'div',
    { class: 'hero-drop' },
    icon('images'),
    h('p', { class: 'hero-drop-title' }, T.hero.drop),
    h('p', { class: 'soft' }, T.hero.hint),
    h(
      'div',
      { class: 'row centre' },
      button(T.hero.folder, 'folder', () => choose(takeFiles, { folder: true }), { class: 'button primary' }),
      button(T.hero.zip, 'zip', () => choose(takeFiles, { accept: '.zip' })),
      button(T.hero.byHand, 'camera', byHand),
    ),
  );
  return h('section', { class: 'hero' }, h('h1', {}, T.hero.title), h('p', { class: 'lead' }, T.hero.lead), zone, h('p', { class: 'soft small' }, T.hero.privacy));
}
