// Limits of the model's size and time: two sliders, and what the versions say about their price.

import { button, h } from './dom.js';
import { emit, on, state } from './state.js';
import { T, bytes, milliseconds } from './strings.js';
import { use } from './versions.js';

const STEPS = 24; // of a slider; the last one sets no limit
const BYTES = 4; // of a weight
const size = slider('limit-size', T.limits.size, bytes);
const time = slider('limit-time', T.limits.time, milliseconds);
const verdict = h('p', { class: 'soft small', role: 'status' });
const choose = button('', null, () => use(chosen()), { class: 'button small' });

/** Return the part of the card; none if the server has one network only. */
export function limitsPart(findSmaller) {
  const { branches } = state.server;
  if (branches.length < 2) return null;
  const parameters = branches.map((each) => each.parameters);
  size.range(BYTES * Math.min(...parameters), BYTES * parameters.reduce((a, b) => a + b));
  const smaller = button(T.limits.compare, null, findSmaller, { class: 'button small' });
  const show = () => {
    smaller.disabled = state.busy || !state.versions.length;
    if (speed()) time.range(...[Math.min, (...all) => all.reduce((a, b) => a + b)].map((f) => f(...branches.map((each) => each.macs * speed()))));
    const best = chosen();
    verdict.textContent = verdictOf(best);
    choose.hidden = !best || best === state.current;
    choose.lastChild.textContent = best ? T.versions.use(best.number) : '';
  };
  for (const name of ['limits', 'measured', 'busy', 'version']) on(name, show);
  show();
  return h('details', { class: 'options limits' }, h('summary', {}, T.limits.title), size.element, time.element, verdict, h('div', { class: 'row' }, choose, smaller));
}

/** Return the options of the contract for the limits. */
export function limitOptions() {
  const options = {};
  if (size.value()) options.max_bytes = Math.floor(size.value());
  if (time.value()) options.max_macs = Math.floor(time.value() / speed());
  return options;
}

/** Return the milliseconds of a multiply-add in this browser; 0 before a version has run. */
function speed() {
  const { milliseconds: spent, model } = state.versions.findLast((version) => version.milliseconds) ?? {};
  return spent ? spent / Number(model.report.macs) : 0;
}

const accuracyOf = (version) => version.model.report.leave_one_out?.accuracy ?? 0;
const bestOf = (versions) => versions.reduce((a, b) => (accuracyOf(b) > accuracyOf(a) ? b : a));

/** Return the best version within the limits. */
function chosen() {
  const [mostBytes, mostTime] = [size, time].map((limit) => limit.value() || Infinity);
  const within = state.versions.filter(({ milliseconds: spent = 0, model }) => Number(model.size_bytes) <= mostBytes && spent <= mostTime);
  return within.length ? bestOf(within) : null;
}

/** Return a sentence about the accuracy within the limits. */
function verdictOf(best) {
  if (!state.versions.length) return '';
  if (!best) return T.limits.unknown;
  return T.limits.costs(best.number, accuracyOf(best), accuracyOf(bestOf(state.versions)) - accuracyOf(best));
}

/** Return a slider with a logarithmic scale. It is disabled until it has a range. */
function slider(id, label, unit) {
  let [low, high] = [0, 0];
  const input = h('input', { id, type: 'range', min: 0, max: STEPS, value: STEPS, disabled: true });
  const shown = h('output', { for: id }, T.limits.later);
  const value = () => (Number(input.value) < STEPS && high ? low * (high / low) ** (Number(input.value) / STEPS) : 0);
  const show = () => {
    shown.textContent = value() ? unit(value()) : T.limits.none;
    input.setAttribute('aria-valuetext', shown.textContent);
  };
  input.addEventListener('input', () => (show(), emit('limits')));
  const range = (least, most) => {
    [low, high] = [1.1 * least, most]; // the file has more than weights, and times vary
    input.disabled = false;
    show();
  };
  return { element: h('div', { class: 'slider' }, h('label', { for: id }, label), shown, input), range, value };
}
