// The stages of a running adaptation, and the architecture as it is found.

import { architecture } from './architecture.js';
import { cellDrawings } from './cells.js';
import { lineChart } from './chart.js';
import { h, icon } from './dom.js';
import { lost } from './notices.js';
import { T, seconds } from './strings.js';

const TICK = 100; // milliseconds between two values of the clock

/** Return { element, begin }; `begin` returns the callbacks that show the stages of one job. */
export function progressView() {
  const element = h('div', { class: 'progress', hidden: true });
  return { element, begin: () => begin(element) };
}

function begin(element) {
  const chart = lineChart([{ key: 'loss', label: T.adapt.loss }, { key: 'entropy', label: T.adapt.entropy }]);
  const clock = h('span', { class: 'clock' });
  const stages = h('ol', { class: 'stages' });
  const found = h('div', { class: 'found' });
  const begun = performance.now();
  const timer = setInterval(() => (clock.textContent = seconds((performance.now() - begun) / 1000)), TICK);
  const enter = stageList(stages);
  element.replaceChildren(h('div', { class: 'beam' }), clock, chart.element, stages, found);
  element.hidden = false;
  enter('sending', T.adapt.sending);
  return {
    onFull: () => enter('full', T.adapt.full),
    onProgress({ stage, step = 0, steps = 0, loss, entropy, branch, architecture: shares, genotype_json: genotype }) {
      const name = T.adapt.stages[stage] ?? stage;
      const note = enter(`${stage} ${branch ?? ''}`, branch ? `${name}: ${branch}` : name);
      if (step && steps > 1) note(T.adapt.step(step, steps));
      chart.add('loss', loss);
      chart.add('entropy', entropy);
      if (shares) found.replaceChildren(...architecture({ shares }));
      if (genotype) found.append(...cellDrawings(JSON.parse(genotype)));
    },
    onState({ state: name }) {
      if (name === 'ADAPTATION_STATE_QUEUED') enter('queued', T.adapt.queued);
    },
    onLost() {
      enter('lost', T.adapt.reconnecting);
      lost();
    },
    end() {
      clearInterval(timer);
      element.hidden = true;
      element.replaceChildren();
      return (performance.now() - begun) / 1000;
    },
  };
}

/** Return a function that enters a stage once and returns one that sets its figure. */
function stageList(list) {
  let entered = '';
  return (key, label) => {
    const last = list.lastChild;
    if (key !== entered) {
      entered = key;
      if (last) {
        last.className = 'done';
        last.firstChild.replaceChildren(icon('check'));
      }
      list.append(h('li', { class: 'active' }, h('span', { class: 'tick' }), h('span', {}, label), h('span', { class: 'figure' })));
    }
    return (text) => (list.lastChild.lastChild.textContent = text);
  };
}
