// Try the model: drop new images or point the webcam; the answers are computed here.

import { openCamera } from './camera.js';
import { button, h, say } from './dom.js';
import { choose, dropzone } from './dropzone.js';
import { byClass } from './files.js';
import { changed, lastPart, place, sentenceAbout } from './intake.js';
import { meter } from './meter.js';
import { notify } from './notices.js';
import { makePictures, thumbnail } from './picture.js';
import { predict } from './predictor.js';
import { classNamed, emit, on, state } from './state.js';
import { T, percent } from './strings.js';

const KNOWN = 0.5; // below, the image is probably of no class
const BARS = 5;
const SMOOTH = 0.3; // share of the newest frame in the rate that is shown
const tests = []; // { picture, folder, element, answer }
const status = h('p', { class: 'soft small', role: 'status' });
const results = h('ul', { class: 'answers' });
const summary = h('div', { class: 'summary' });
const live = h('div', { class: 'live', hidden: true });
const clear = button(T.tryout.clear, null, clearTests, { class: 'button small quiet', hidden: true });
const cameraButton = button(T.tryout.camera, 'camera', toggleCamera, { class: 'button small' });
let camera = null;

/** Return the card. */
export function tryCard() {
  const zone = h(
    'div',
    { class: 'try-drop' },
    h('p', {}, T.tryout.drop),
    h(
      'div',
      { class: 'row centre' },
      button(T.tryout.choose, 'images', () => choose(takeTests), { class: 'button small' }),
      button(T.tryout.folder, 'folder', () => choose(takeTests, { folder: true }), { class: 'button small' }),
      cameraButton,
    ),
  );
  dropzone(zone, takeTests);
  const card = h('section', { class: 'card try', 'aria-labelledby': 'try', hidden: true }, h('div', { class: 'bar' }, h('h2', { id: 'try' }, T.tryout.title), h('span', { class: 'grow' }), clear), h('p', { class: 'soft small' }, T.tryout.lead), zone, live, status, summary, results);
  on('version', () => {
    card.hidden = false;
    status.textContent = T.tryout.loading;
  });
  on('model', async () => {
    status.textContent = '';
    for (const test of tests) await answer(test);
  });
  on('model-failed', () => (status.textContent = T.tryout.failed));
  return card;
}

async function takeTests(promise) {
  let files;
  try {
    files = await promise;
  } catch {
    return void notify(T.collect.badZip, 'bad');
  }
  if (!files.length) return void notify(T.collect.noImages);
  const unreadable = [];
  for (const [folder, group] of byClass(files)) {
    const made = [];
    await makePictures(group, (picture, file) => (picture ? made.push(picture) : unreadable.push(lastPart(file))));
    for (const picture of made) await addTest(picture, folder);
  }
  if (unreadable.length) notify(sentenceAbout({ unreadable }));
}

async function addTest(picture, folder) {
  const test = { picture, folder, element: h('li', {}), answer: null };
  tests.unshift(test);
  results.prepend(test.element);
  clear.hidden = false;
  await answer(test);
}

async function answer(test) {
  const version = state.current;
  if (!version?.loaded) return;
  test.answer = await predict(test.picture.blob);
  test.labels = version.model.labels;
  show(test);
  summarise(version);
}

/** Return the label of an answer, or null for "none of these". */
function labelOf({ probabilities, known }, labels) {
  return known < KNOWN ? null : labels[probabilities.indexOf(Math.max(...probabilities))];
}

function bars({ probabilities, known }, labels) {
  const order = probabilities.map((value, index) => [value, labels[index]]).sort(([a], [b]) => b - a);
  const foreign = known < KNOWN;
  const rows = order.slice(0, BARS).map(([value, label], index) => meter(label, value, { best: index === 0 && !foreign, hue: classNamed(label)?.hue }));
  return foreign ? [h('p', { class: 'foreign' }, `${T.tryout.unknown} (${percent(1 - known)})`), ...rows] : rows;
}

function show(test) {
  const { picture, folder, element, answer: given, labels } = test;
  const label = labelOf(given, labels);
  const expected = labels.includes(folder) ? folder : '';
  const verdict = expected && (label === expected ? 'right' : 'wrong');
  const select = h('select', { 'aria-label': T.tryout.addToLabel }, h('option', { value: '' }, T.tryout.addTo), state.classes.map((kind) => h('option', { value: kind.id }, kind.name)));
  select.addEventListener('change', () => {
    const kind = state.classes.find((each) => String(each.id) === select.value);
    tests.splice(tests.indexOf(test), 1);
    element.remove();
    place(picture, kind);
    changed();
    summarise(state.current);
  });
  element.className = verdict || '';
  const head = h('p', { class: 'answer' }, verdict === 'wrong' && h('span', { class: 'wrong-mark' }, `≠ ${expected}`));
  element.replaceChildren(thumbnail(picture), h('div', { class: 'grow' }, head, bars(given, labels).slice(0, 3), h('div', { class: 'row' }, h('span', { class: 'soft small time' }, T.tryout.perImage(given.milliseconds)), h('span', { class: 'grow' }), select)));
  say(label ?? T.tryout.unknown);
}

/** Show how many images from folders with the names of classes were right, and the confusions. */
function summarise(version) {
  const judged = tests.filter((test) => test.answer && test.labels.includes(test.folder));
  clear.hidden = !tests.length;
  if (!judged.length) return summary.replaceChildren();
  const { labels } = version.model;
  const pairs = judged.map((test) => [test.folder, labelOf(test.answer, test.labels)]);
  const right = pairs.filter(([truth, guess]) => truth === guess).length;
  version.tested = { right, all: judged.length };
  emit('tested', version);
  return summary.replaceChildren(h('p', { class: 'tested' }, T.tryout.summary(right, judged.length)), right < judged.length ? confusion(labels, pairs) : '');
}

function confusion(labels, pairs) {
  const seen = labels.filter((label) => pairs.some((pair) => pair.includes(label)));
  const cell = (truth, guess) => {
    const n = pairs.filter(([a, b]) => a === truth && b === guess).length;
    const all = pairs.filter(([a]) => a === truth).length;
    return h('td', { class: truth === guess ? 'hit' : 'miss', style: { '--share': all ? n / all : 0 } }, n || '');
  };
  const head = h('tr', {}, h('td'), seen.map((label) => h('th', { scope: 'col' }, h('span', {}, label))));
  const rows = seen.map((truth) => h('tr', {}, h('th', { scope: 'row' }, truth), seen.map((guess) => cell(truth, guess))));
  return h('details', { class: 'fold' }, h('summary', {}, T.tryout.confusion), h('div', { class: 'scroll' }, h('table', { class: 'confusion' }, h('thead', {}, head), h('tbody', {}, rows))));
}

function clearTests() {
  tests.length = 0;
  results.replaceChildren();
  summarise(state.current);
}

async function toggleCamera() {
  if (camera) {
    camera.stop();
    camera = null;
    live.hidden = true;
    cameraButton.lastChild.textContent = T.tryout.camera;
    return;
  }
  camera = await openCamera();
  if (!camera) return;
  cameraButton.lastChild.textContent = T.tryout.stop;
  const shown = h('div', { class: 'live-bars' });
  const rate = h('p', { class: 'soft small time' });
  live.replaceChildren(h('div', { class: 'mirror' }, camera.video), shown, rate);
  live.hidden = false;
  await watch(camera, shown, rate);
}

/** Classify the newest frame again and again. */
async function watch(opened, shown, rate) {
  let pace = 0;
  for (let before = performance.now(); camera === opened; ) {
    const version = state.current;
    if (!version?.loaded) {
      await new Promise((resolve) => setTimeout(resolve, 100));
      continue;
    }
    const given = await predict(opened.video);
    const now = performance.now();
    pace = pace ? pace + SMOOTH * (now - before - pace) : now - before;
    before = now;
    shown.replaceChildren(...bars(given, version.model.labels));
    rate.textContent = T.tryout.rate(given.milliseconds, 1000 / pace);
    await new Promise(requestAnimationFrame);
  }
}
