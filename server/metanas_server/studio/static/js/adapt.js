// Adapt: send the images, follow the job, and make a version of its model.

import * as api from './api.js';
import { button, h, say } from './dom.js';
import { changed } from './intake.js';
import { limitOptions, limitsPart } from './limits.js';
import { notify, report } from './notices.js';
import { progressView } from './progress.js';
import { emit, on, pictures, state } from './state.js';
import { T } from './strings.js';
import { use } from './versions.js';

const SMALLER = 4; // most models of falling cost that are made at once
const ready = h('p', { class: 'soft' });
const hint = h('p', { class: 'remark' });
const start = button(T.adapt.start, 'spark', () => run(once), { class: 'button primary wide' });
const stop = button(T.adapt.cancel, null, cancel, { class: 'button small' });
const progress = progressView();
const checkpoint = h('select', { id: 'checkpoint' });
const seed = h('input', { id: 'seed', type: 'number', min: 0, step: 1, value: 0 });
let running = { id: '', abort: null };

/** Return the card. */
export function adaptCard() {
  const cards = state.server.checkpoints.map(({ name, description }) => h('option', { value: name, title: description }, name.split('/').pop()));
  if (state.server.chooses_checkpoint) cards.unshift(h('option', { value: '' }, T.adapt.automatic));
  checkpoint.replaceChildren(...cards);
  const fields = h('div', { class: 'fields' }, h('label', { for: 'checkpoint' }, T.adapt.checkpoint), checkpoint, h('label', { for: 'seed' }, T.adapt.seed), seed);
  const options = h('details', { class: 'options' }, h('summary', {}, T.adapt.options), fields);
  stop.hidden = true;
  refresh();
  return h('section', { class: 'card', 'aria-labelledby': 'adapt' }, h('h2', { id: 'adapt' }, T.adapt.title), ready, start, hint, progress.element, stop, limitsPart(() => run(smaller)), options);
}

for (const name of ['images', 'version', 'busy']) on(name, refresh);

function refresh() {
  const problem = obstacle();
  const { busy, dirty, versions } = state;
  ready.textContent = T.adapt.ready(state.classes.length, pictures().length);
  start.disabled = busy || Boolean(problem);
  start.lastChild.textContent = versions.length ? T.adapt.again : T.adapt.start;
  start.classList.toggle('primary', !versions.length || dirty);
  stop.hidden = !busy;
  hint.textContent = problem || (versions.length && dirty && !busy ? T.adapt.changed : '');
}

/** Return the reason why nothing can be adapted, or ''. */
function obstacle() {
  const filled = state.classes.filter((kind) => kind.pictures.length);
  const names = state.classes.map((kind) => kind.name);
  const twice = names.find((name, index) => names.indexOf(name) !== index);
  const empty = state.classes.find((kind) => !kind.pictures.length);
  if (filled.length < 2) return T.adapt.needClasses;
  if (names.includes('')) return T.adapt.noName;
  if (twice !== undefined) return T.adapt.sameName(twice);
  if (empty) return T.adapt.emptyClass(empty.name);
  const pair = twinsApart();
  return pair ? T.adapt.twins(...pair) : '';
}

/** Return the names of two classes that have the same image, or null. */
function twinsApart() {
  const first = new Map();
  for (const { kind, picture } of pictures()) {
    const other = first.get(picture.hash) ?? kind;
    if (other !== kind) return [other.name, kind.name];
    first.set(picture.hash, kind);
  }
  return null;
}

/** Return the pictures to send, at most as many of a class as the server takes. */
function support() {
  const most = state.server.limits.max_shots;
  return state.classes.flatMap((kind) => kind.pictures.slice(0, most).map((picture) => ({ kind, picture })));
}

/** Do some work with the page in its busy state. */
async function run(work) {
  setBusy(true);
  try {
    await work(support());
  } catch (error) {
    if (error.name === 'AbortError') notify(T.adapt.cancelled);
    else report(error);
  } finally {
    setBusy(false);
  }
}

/** Make one version. */
async function once(sent) {
  state.dirty = false;
  try {
    await version(sent, limitOptions());
  } catch (error) {
    state.dirty = true;
    blame(error.violations ?? [], sent);
    throw error;
  }
}

/** Make versions with at most half the multiply-adds of the one before, until no network is left. */
async function smaller(sent) {
  const options = limitOptions();
  const first = state.current;
  let before = first;
  for (let made = 0; made < SMALLER; made += 1) {
    options.max_macs = Math.floor(Number(before.model.report.macs) / 2);
    try {
      before = await version(sent, options);
      await before.ready; // its time is measured while nothing else runs
    } catch (error) {
      if (!error.violations?.some(({ reason }) => reason === 'BUDGET_TOO_SMALL')) throw error;
      if (!made) notify(T.limits.smallest);
      break;
    }
  }
  await use(first);
}

/** Send the images and return the version that comes of them. */
async function version(sent, options) {
  const view = progress.begin();
  running = { id: '', abort: new AbortController() };
  const spec = { labels: sent.map(({ kind }) => kind.name), checkpoint: checkpoint.value, seed: seed.value || '0', options };
  try {
    const blobs = sent.map(({ picture }) => picture.blob);
    running.id = await api.create(spec, blobs, { signal: running.abort.signal, onFull: view.onFull });
    const ended = await api.follow(running.id, view);
    return await finish(ended, sent, view.end());
  } finally {
    view.end();
  }
}

async function finish(ended, sent, spent) {
  if (ended.state === 'ADAPTATION_STATE_CANCELLED') throw new DOMException(T.adapt.cancelled, 'AbortError');
  if (ended.state !== 'ADAPTATION_STATE_SUCCEEDED') throw new api.ApiError(400, ended.failure ?? { message: T.adapt.failed });
  const id = ended.model.split('/').pop();
  const made = { number: state.versions.length + 1, id, model: await api.model(id), spent, images: sent.length, support: sent, tested: null };
  state.versions.push(made);
  emit('adapted', made);
  say(T.adapt.done(made.number));
  show(document.getElementById('look'));
  return made;
}

/** Scroll to an element in the lower half of the window or below. */
function show(element) {
  if (element.getBoundingClientRect().top > innerHeight / 2) element.scrollIntoView({ behavior: 'smooth' });
}

function cancel() {
  if (running.id) api.cancel(running.id).catch(report);
  else running.abort.abort();
}

/** Mark the images that violations name. */
function blame(violations, sent) {
  for (const { field, message } of violations) {
    const index = /^examples\[(\d+)\]/.exec(field)?.[1];
    if (index === undefined || !sent[index]) continue;
    sent[index].picture.marks.add('bad');
    sent[index].picture.refusal = message;
  }
  if (violations.length) changed();
}

function setBusy(busy) {
  state.busy = busy;
  emit('busy');
}
