// The architecture: the networks that were chosen with their shares, and the cells of the first.

import { cellDrawings } from './cells.js';
import { h } from './dom.js';
import { meter } from './meter.js';
import { state } from './state.js';
import { T } from './strings.js';

/** Return elements for shares of branches (name -> share) and a genotype; both may be missing. */
export function architecture({ shares, prior, genotype }) {
  const chosen = Object.entries(shares ?? {}).sort(([, a], [, b]) => b - a);
  const rest = Object.entries(prior ?? {}).filter(([name]) => !(name in (shares ?? {})));
  const parts = chosen.map(([name, share]) => meter(name, share, { title: describe(name) }));
  if (rest.length) parts.push(h('p', { class: 'soft small' }, T.look.notChosen(rest.map(([name]) => name).join(', '))));
  return [...parts, ...cellDrawings(genotype)];
}

/** Return what a branch is: its network, and the size of its images. */
function describe(name) {
  const side = state.server.branches.find((each) => each.name === name)?.size;
  return side ? T.look.branch(name, side) : name;
}
