// Adapt: send the images, follow the job, show each stage.

import * as api from './api.js';
import { lineChart } from './chart.js';
import { button, h, icon, say } from './dom.js';
import { changed } from './intake.js';
import { lost, notify, report } from './notices.js';
import { emit, on, pictures, state } from './state.js';
import { T, count, seconds } from './strings.js';

const ready = h('p', { class: 'soft' });
const hint = h('p', { class: 'remark' });
const start = button(T.adapt.start, 'spark', adapt, { class: 'button primary wide' });
const stop = button(T.adapt.cancel, null, () => api.cancel(running.id).catch(report), { class: 'button quiet' });
const stages = h('ol', { class: 'stages', hidden: true });
const box = h('div', { class: 'progress' });
const checkpoint = h('select', { id: 'checkpoint' });
const seed = h('input', { id: 'seed', type: 'number', min: 0, step: 1, value: 0 });
let running = { id: '' };

/** Return the card. */
export function adaptCard() {
  const cards = state.server.checkpoints.map(({ name, description }) => h('option', { value: name, title: description }, name.split('/').pop()));
  if (state.server.chooses_checkpoint) cards.unshift(h('option', { value: '' }, T.adapt.automatic));
  checkpoint.replaceChildren(...cards);
  const options = h('details', { class: 'options' }, h('summary', {}, T.adapt.options), h('div', { class: 'fields' }, h('label', { for: 'checkpoint' }, T.adapt.checkpoint), checkpoint, h('label', { for: 'seed' }, T.adapt.seed), seed));
  stop.hidden = true;
  refresh();
  return h('section', { class: 'card', 'aria-labelledby': 'adapt' }, h('h2', { id: 'adapt' }, T.adapt.title), ready, start, hint, box, stages, h('div', { class: 'row' }, options, h('span', { class: 'grow' }), stop));
}

on('images', refresh);
on('version', refresh);

function refresh() {
  const problem = obstacle();
  ready.textContent = T.adapt.ready(state.classes.length, pictures().length);
  start.disabled = state.busy || Boolean(problem);
  start.lastChild.textContent = state.versions.length ? T.adapt.again : T.adapt.start;
  start.classList.toggle('primary', !state.versions.length || state.dirty);
  hint.textContent = problem || (state.versions.length && state.dirty && !state.busy ? T.adapt.changed : '');
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
  return empty ? T.adapt.emptyClass(empty.name) : '';
}

/** Return the pictures to send, at most as many of a class as the server takes. */
function support() {
  const most = state.server.limits.max_shots;
  return state.classes.flatMap((kind) => kind.pictures.slice(0, most).map((picture) => ({ kind, picture })));
}

async function adapt() {
  const sent = support();
  const begun = performance.now();
  const view = progressView(begun);
  setBusy(true);
  state.dirty = false;
  refresh();
  try {
    const spec = { labels: sent.map(({ kind }) => kind.name), checkpoint: checkpoint.value, seed: seed.value || '0' };
    running = { id: await api.create(spec, sent.map(({ picture }) => picture.blob)) };
    const ended = await api.follow(running.id, view);
    await finish(ended, sent, (performance.now() - begun) / 1000);
  } catch (error) {
    state.dirty = true;
    if (error.violations?.length) blame(error.violations, sent);
    report(error);
  } finally {
    view.end();
    setBusy(false);
  }
}

async function finish(ended, sent, spent) {
  if (ended.state !== 'ADAPTATION_STATE_SUCCEEDED') {
    state.dirty = true;
    blame(ended.failure?.violations ?? [], sent);
    const cancelled = ended.state === 'ADAPTATION_STATE_CANCELLED';
    notify(cancelled ? T.adapt.cancelled : ended.failure?.message || T.adapt.failed, cancelled ? 'warning' : 'bad');
    return;
  }
  const id = ended.model.split('/').pop();
  const model = await api.model(id);
  const version = { number: state.versions.length + 1, id, model, spent, images: sent.length, support: sent, tested: null };
  state.versions.push(version);
  emit('adapted', version);
  say(T.adapt.done(version.number));
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
  stop.hidden = !busy;
  refresh();
}

/** Return the callbacks that show the stages of a job. */
function progressView(begun) {
  const chart = lineChart([{ key: 'loss', label: T.adapt.loss }, { key: 'entropy', label: T.adapt.entropy }]);
  const clock = h('span', { class: 'clock' });
  const timer = setInterval(() => (clock.textContent = seconds((performance.now() - begun) / 1000)), 100);
  let item = null;
  let stage = '';
  const enter = (name, label) => {
    if (name === stage) return;
    leave();
    stage = name;
    item = h('li', { class: 'active' }, h('span', { class: 'tick' }), h('span', {}, label), h('span', { class: 'figure' }));
    stages.append(item);
  };
  const leave = () => {
    if (!item) return;
    item.className = 'done';
    item.firstChild.replaceChildren(icon('check'));
  };
  stages.replaceChildren();
  stages.hidden = false;
  box.replaceChildren(h('div', { class: 'beam' }), clock, chart.element);
  enter('sending', T.adapt.sending);
  return {
    onProgress({ stage: name, step = 0, steps = 0, loss, entropy }) {
      enter(name, T.adapt.stages[name] ?? name);
      if (step && steps > 1) item.lastChild.textContent = T.adapt.step(step, steps);
      chart.add('loss', loss);
      chart.add('entropy', entropy);
    },
    onState({ state: name }) {
      if (name === 'ADAPTATION_STATE_QUEUED') enter('queued', T.adapt.queued);
    },
    onLost() {
      if (item) item.lastChild.textContent = T.adapt.reconnecting;
      lost();
    },
    end() {
      clearInterval(timer);
      leave();
      box.firstChild?.remove();
      stages.hidden = true;
      box.replaceChildren();
    },
  };
}
