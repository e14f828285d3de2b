// Drawings of the cells of a network.

import { h, svg } from './dom.js';
import { T } from './strings.js';

const COLUMN = 104;
const ROW = 54;
const BOX = { width: 56, height: 26 };
const INPUTS = 2;
const MARGIN = 16;

/** Return a drawing of each kind of cell that a genotype has. */
export function cellDrawings(genotype) {
  return Object.keys(T.look.kinds)
    .filter((kind) => genotype?.[kind]?.length)
    .map((kind) => h('figure', { class: 'cell' }, draw(genotype[kind], kind), h('figcaption', {}, T.look.kinds[kind])));
}

function draw(nodes, kind) {
  const columns = columnsOf(nodes);
  const end = Math.max(...columns) + 1;
  const places = placesOf(columns, end);
  const height = Math.max(...places.map(({ y }) => y)) + BOX.height + MARGIN;
  const lines = nodes.flatMap((edges, node) => edges.map(([from, name], side) => line(places[from], places[node + INPUTS], name, side)));
  const out = nodes.map((_, node) => line(places[node + INPUTS], places.at(-1), null, 0));
  const names = [T.look.input(0), T.look.input(1), ...nodes.map((_, node) => String(node + 1)), T.look.output];
  const boxes = places.map((place, index) => box(place, names[index], index < INPUTS || index === places.length - 1));
  const label = nodes.map((edges, node) => `${node + 1}: ${edges.map(([from, name]) => `${name} of ${names[from]}`).join(' + ')}`).join('; ');
  const width = COLUMN * end + 96 + 2 * MARGIN;
  return svg('svg', { viewBox: `0 0 ${width} ${height}`, role: 'img', 'aria-label': `${T.look.kinds[kind]}. ${label}` }, lines, out, boxes);
}

/** Return the column of each input and node: its longest path from the inputs. */
function columnsOf(nodes) {
  const columns = [0, 0];
  for (const edges of nodes) columns.push(1 + Math.max(...edges.map(([from]) => columns[from])));
  return columns;
}

function placesOf(columns, end) {
  const used = new Map();
  const places = columns.map((column) => {
    const row = used.get(column) ?? 0;
    used.set(column, row + 1);
    return { column, row };
  });
  const most = Math.max(...used.values());
  const at = ({ column, row }) => ({ x: MARGIN + column * COLUMN, y: MARGIN + (row + (most - used.get(column)) / 2) * ROW + (column % 2) * 8 });
  return [...places.map(at), { x: MARGIN + end * COLUMN, y: MARGIN + ((most - 1) / 2) * ROW }];
}

function line(from, to, name, side) {
  const [x1, y1] = [from.x + BOX.width + (from.x === MARGIN ? 34 : 0), from.y + BOX.height / 2];
  const [x2, y2] = [to.x, to.y + BOX.height / 2 + (name ? (side ? 6 : -6) : 0)];
  const bend = Math.max(18, (x2 - x1) / 2);
  const path = svg('path', { class: name ? 'edge' : 'edge out', d: `M${x1},${y1} C${x1 + bend},${y1} ${x2 - bend},${y2} ${x2},${y2}` });
  const text = name && svg('text', { class: 'operation', x: (x1 + x2) / 2, y: (y1 + y2) / 2 - 4 }, name.replaceAll('_', ' '));
  return [path, text];
}

function box({ x, y }, name, outer) {
  const width = BOX.width + (outer ? 34 : 0);
  return [
    svg('rect', { class: outer ? 'node outer' : 'node', x, y, width, height: BOX.height, rx: 8 }),
    svg('text', { class: 'node-name', x: x + width / 2, y: y + BOX.height / 2 + 4 }, name),
  ];
}
