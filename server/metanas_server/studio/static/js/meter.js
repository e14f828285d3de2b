// A labelled bar for a share.

import { h } from './dom.js';
import { percent } from './strings.js';

const HUE = 172;

/** Return a bar; `best` makes it stand out. */
export function meter(label, value, { best = false, hue = HUE, title = label } = {}) {
  return h(
    'div',
    { class: best ? 'meter best' : 'meter', style: { '--hue': hue, '--value': value } },
    h('span', { class: 'meter-name', title }, label),
    h('span', { class: 'meter-bar', 'aria-hidden': 'true' }),
    h('span', { class: 'meter-value' }, percent(value)),
  );
}
