// Look at the result: the expected accuracy, facts, images to check, per-class figures, cells.

import { architecture } from './architecture.js';
import { h, svg } from './dom.js';
import { move } from './intake.js';
import { meter } from './meter.js';
import { thumbnail } from './picture.js';
import { predict } from './predictor.js';
import { classNamed, emit, on, state } from './state.js';
import { T, bytes, number, percent, seconds } from './strings.js';

const RING = 2 * Math.PI * 42;
const SHOWN = 12; // images to look at
const check = h('div', { class: 'check' });
const body = h('div', {});
const card = h('section', { class: 'card look', 'aria-labelledby': 'look', hidden: true }, h('h2', { id: 'look' }, T.look.title), body, check);

/** Return the card. */
export const lookCard = () => card;

on('version', (version) => {
  const { report, genotype, size_bytes: size } = version.model;
  card.hidden = false;
  const found = architecture({ shares: report.architecture, prior: report.prior, genotype });
  body.replaceChildren(
    ...[
      headline(report),
      facts(report, Number(size), version.spent),
      perClass(report.leave_one_out),
      found.length && h('details', { class: 'fold' }, h('summary', {}, T.look.architecture), h('p', { class: 'soft small' }, T.look.architectureLead), found),
    ].filter(Boolean),
  );
});

on('model', checkImages);

function headline(report) {
  if (!report.leave_one_out) return h('p', { class: 'soft' }, T.look.noEstimate);
  const { accuracy: value, low, high, weakest } = report.leave_one_out;
  const ring = svg(
    'svg',
    { class: 'ring', viewBox: '0 0 100 100', 'aria-hidden': 'true' },
    svg('circle', { class: 'ring-back', cx: 50, cy: 50, r: 42 }),
    svg('circle', { class: 'ring-front', cx: 50, cy: 50, r: 42, 'stroke-dasharray': `${value * RING} ${RING}` }),
  );
  const text = h('div', {}, h('p', { class: 'headline' }, percent(value)), h('p', {}, T.look.expected, ', ', T.look.between(low, high)), h('p', { class: 'soft small' }, T.look.estimate, weakest && T.look.weakest(weakest)));
  return h('div', { class: 'score' }, ring, text);
}

function facts(report, size, spent) {
  const rows = [
    [T.look.size, bytes(size)],
    [T.look.parameters, number(report.parameters)],
    [T.look.time, seconds(spent)],
    [T.look.base, report.checkpoint],
  ];
  return h('dl', { class: 'facts' }, rows.map(([name, value]) => h('div', {}, h('dt', {}, name), h('dd', {}, value))));
}

/** Return the share of each class that was right, and the classes that are confused. */
function perClass(estimates) {
  const known = (estimates?.classes ?? []).filter(({ recall }) => recall.count);
  if (!known.length) return null;
  const rows = known.map(({ label, recall }) => meter(label, recall.hits / recall.count, { hue: classNamed(label)?.hue }));
  const mistakes = estimates.confusions.map(({ label, predicted, images }) => h('li', {}, T.look.confusion(label, predicted, images)));
  const confused = mistakes.length > 0 && [h('h3', {}, T.look.confused), h('ul', { class: 'soft small' }, mistakes)];
  return h('details', { class: 'fold' }, h('summary', {}, T.look.classes), rows, confused);
}

/** Show the images that the report suspects, and those that the file itself takes for another class. */
async function checkImages(version) {
  const waiting = h('p', { class: 'soft small' });
  check.replaceChildren(waiting);
  const suspected = new Map((version.model.report.leave_one_out?.suspicious ?? []).map(({ index, looks_like }) => [index, looks_like]));
  const wrong = [];
  for (const [index, { kind, picture }] of version.support.entries()) {
    if (state.current !== version) return;
    waiting.textContent = T.look.checking(index + 1, version.support.length);
    const { probabilities } = await predict(picture.blob);
    const guess = version.model.labels[probabilities.indexOf(Math.max(...probabilities))];
    const other = suspected.get(index) ?? (guess === kind.name ? '' : guess);
    picture.takenFor = classNamed(kind.name) ? other : '';
    picture.marks[picture.takenFor ? 'add' : 'delete']('wrong');
    if (picture.takenFor) wrong.push({ kind, picture });
  }
  if (state.current === version) showWrong(wrong);
  emit('checked');
}

function showWrong(wrong) {
  if (!wrong.length) return check.replaceChildren(h('p', { class: 'agree' }, T.look.agree));
  const row = ({ kind, picture }) => {
    const target = classNamed(picture.takenFor);
    const take = () => (move(picture, target), item.remove());
    const keep = () => (picture.marks.delete('wrong'), item.remove(), emit('checked'));
    const item = h(
      'li',
      {},
      thumbnail(picture),
      h('span', { class: 'grow' }, h('strong', {}, kind.name), h('br'), h('span', { class: 'soft small' }, `→ ${picture.takenFor}`)),
      h(
        'span',
        { class: 'row' },
        target && h('button', { type: 'button', class: 'button small', onclick: take }, T.look.moveTo(target.name)),
        h('button', { type: 'button', class: 'button small quiet', onclick: keep }, T.look.keep),
      ),
    );
    return item;
  };
  return check.replaceChildren(h('h3', {}, T.look.wrong(wrong.length)), h('p', { class: 'soft small' }, T.look.wrongLead), h('ul', { class: 'suspects' }, wrong.slice(0, SHOWN).map(row)));
}
