// A small line chart of one or two rows of values.

import { h, svg } from './dom.js';

const WIDTH = 320;
const HEIGHT = 72;

/** Return a chart with a method `add(name, value)` for each of the named lines. */
export function lineChart(names) {
  const rows = new Map(names.map(({ key }) => [key, []]));
  const lines = new Map(names.map(({ key }, index) => [key, svg('polyline', { class: `line line-${index}` })]));
  const picture = svg('svg', { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: 'none', 'aria-hidden': 'true' }, [...lines.values()]);
  const legend = h('p', { class: 'legend' }, names.map(({ label }, index) => h('span', { class: `key key-${index}` }, label)));
  const element = h('div', { class: 'chart', hidden: true }, picture, legend);
  const draw = () => {
    for (const [key, values] of rows) {
      const [low, high] = [Math.min(0, ...values), Math.max(...values, 1e-6)];
      const x = (index) => (index * WIDTH) / Math.max(1, values.length - 1);
      const y = (value) => HEIGHT - 4 - ((value - low) * (HEIGHT - 8)) / (high - low);
      lines.get(key).setAttribute('points', values.map((value, index) => `${x(index)},${y(value)}`).join(' '));
    }
  };
  return {
    element,
    add(key, value) {
      if (!Number.isFinite(value)) return;
      rows.get(key).push(value);
      element.hidden = rows.get(names[0].key).length < 2;
      draw();
    },
  };
}
