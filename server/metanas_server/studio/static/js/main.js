// The page: first the place to drop images, then the workspace.

import { adaptCard } from './adapt.js';
import * as api from './api.js';
import { collectSection, heroSection, takeFiles } from './collect.js';
import { h, liveRegion } from './dom.js';
import { dropzone } from './dropzone.js';
import { lookCard } from './look.js';
import { askForToken, clearNotices, lost, notices, report } from './notices.js';
import { on, pictures, state } from './state.js';
import { T } from './strings.js';
import { takeCard } from './take.js';
import { tryCard } from './tryout.js';
import { versionsCard } from './versions.js';

const AFTERWARDS = ['look', 'try', 'take']; // steps that need a version
const PAUSE = 2000; // milliseconds between two tries to reach the server
const main = h('main', { id: 'main' }, h('p', { class: 'soft loading' }, T.loading));
const header = h('header', { class: 'top' }, h('img', { src: '/static/icon.svg', alt: '', width: 28, height: 28 }), h('span', { class: 'wordmark' }, T.name));
const steps = h('nav', { class: 'steps', 'aria-label': T.steps.label });
document.body.append(header, notices(), main, liveRegion());

const whole = dropzone(document.documentElement, (files) => takeFiles(files));
whole.addEventListener('dragover', (event) => event.preventDefault());
addEventListener('beforeunload', (event) => pictures().length && event.preventDefault());
on('class', showWorkspace);

await start();

async function start() {
  for (;;) {
    try {
      state.server = await api.server();
      main.replaceChildren(heroSection());
      return;
    } catch (error) {
      if (error.status === 401) return void askForToken();
      if (error instanceof api.Unreachable) lost();
      else report(error);
      await new Promise((resolve) => setTimeout(resolve, PAUSE));
    }
  }
}

function showWorkspace() {
  if (document.querySelector('.workspace')) return;
  const side = h('div', { class: 'side' }, adaptCard(), lookCard(), versionsCard(), tryCard(), takeCard());
  const collect = collectSection(startOver);
  main.replaceChildren(h('h1', { class: 'unseen' }, T.name), h('div', { class: 'workspace' }, collect, side));
  keepInView(collect);
  steps.replaceChildren(...Object.entries(T.steps.names).map(([id, name]) => h('a', { href: `#${id}`, hidden: AFTERWARDS.includes(id) }, name)));
  header.append(steps);
  on('version', () => steps.querySelectorAll('a').forEach((link) => (link.hidden = false)));
}

/** Scroll a section with the page until its end is in view, and keep it there beside a longer one. */
function keepInView(section) {
  const top = () => Math.min(header.offsetHeight, innerHeight - section.offsetHeight);
  const place = () => section.style.setProperty('--top', `${top()}px`);
  new ResizeObserver(place).observe(section);
  addEventListener('resize', place);
}

function startOver() {
  if (pictures().length && !confirm(T.collect.confirmStartOver)) return;
  clearNotices();
  state.classes = [];
  location.reload();
}
