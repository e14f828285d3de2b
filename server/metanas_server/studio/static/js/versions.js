// The versions of the model, side by side; the chosen one is tried and downloaded.

import * as api from './api.js';
import { h } from './dom.js';
import { report } from './notices.js';
import { load, predict } from './predictor.js';
import { emit, on, state } from './state.js';
import { T, bytes, milliseconds, percent } from './strings.js';

const METADATA_BYTES = 1e6; // of the file, at most
const MEASURED = 5; // images that are timed
const body = h('tbody', {});
const head = ['version', 'images', 'accuracy', 'tested', 'size', 'time'].map((key) => h('th', { scope: 'col' }, T.versions[key]));
const card = h('section', { class: 'card versions', 'aria-labelledby': 'versions', hidden: true }, h('h2', { id: 'versions' }, T.versions.title), h('div', { class: 'scroll' }, h('table', {}, h('thead', {}, h('tr', {}, head)), body)));

/** Return the card. */
export const versionsCard = () => card;

on('adapted', (version) => (version.ready = use(version)));
on('tested', refresh);

/** Return 1 for grey or 3 for RGB: the end of the file holds its metadata as text. */
function channelsOf(file) {
  const text = new TextDecoder('latin1').decode(new Uint8Array(file).subarray(-METADATA_BYTES));
  return Number(/metanas\.input[^{]*\{"channels": (\d)/.exec(text)?.[1] ?? 3);
}

/** Make a version the current one, and load its file. */
export async function use(version) {
  state.current = version;
  emit('version', version);
  refresh();
  try {
    const bytesOfFile = await api.file(version.id);
    await load(bytesOfFile, channelsOf(bytesOfFile));
    if (state.current !== version) return;
    for (const each of state.versions) each.loaded = null; // one file in memory
    version.loaded = bytesOfFile;
    version.milliseconds ??= await measure(version);
    refresh();
    emit('measured');
    emit('model', version);
  } catch (error) {
    if (state.current === version) emit('model-failed', version);
    if (error instanceof api.ApiError || error instanceof api.Unreachable) report(error);
    else console.error(error);
  }
}

/** Return the median of the milliseconds of some images. */
async function measure({ support }) {
  const times = [];
  for (const { picture } of support.slice(0, MEASURED)) times.push((await predict(picture.blob)).milliseconds);
  return times.sort((a, b) => a - b)[Math.floor(times.length / 2)];
}

function refresh() {
  card.hidden = state.versions.length < 2;
  body.replaceChildren(...state.versions.map((version, index) => row(version, state.versions[index - 1])));
}

function row(version, before) {
  const { number, images, model, tested, milliseconds: spent } = version;
  const radio = h('input', { type: 'radio', name: 'version', id: `version-${number}`, checked: version === state.current, 'aria-label': T.versions.use(number), onchange: () => use(version) });
  const value = model.report.leave_one_out?.accuracy;
  const old = before?.model.report.leave_one_out?.accuracy;
  const change = typeof value === 'number' && typeof old === 'number' && Math.round(100 * (value - old)) !== 0 ? value - old : 0;
  const delta = change ? h('span', { class: change > 0 ? 'up' : 'down' }, ` ${T.versions.points(change)}`) : '';
  return h(
    'tr',
    { class: version === state.current ? 'current' : '' },
    h('td', {}, h('label', {}, radio, ` ${number}`)),
    h('td', {}, images),
    h('td', {}, typeof value === 'number' ? percent(value) : '–', delta),
    h('td', {}, tested ? percent(tested.right / tested.all) : '–'),
    h('td', {}, bytes(Number(model.size_bytes))),
    h('td', {}, spent ? milliseconds(spent) : '–'),
  );
}
