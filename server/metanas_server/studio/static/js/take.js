// Take the model: the file itself, a variant of it, or an archive with a page and a script.

import * as api from './api.js';
import { button, h } from './dom.js';
import { report } from './notices.js';
import { on, state } from './state.js';
import { T, bytes } from './strings.js';

const KEPT = 60000; // milliseconds that a browser gets to save a file

/** Return the card. */
export function takeCard() {
  const size = h('span', {});
  const digest = h('code', {});
  const form = h('select', { id: 'form' });
  const file = button(T.take.onnx, 'download', () => take(file, saveFile), { class: 'button wide' });
  const archive = button(T.take.zip, 'download', () => take(archive, saveArchive), { class: 'button wide' });
  const card = h(
    'section',
    { class: 'card take', 'aria-labelledby': 'take', hidden: true },
    h('h2', { id: 'take' }, T.take.title),
    file,
    h('p', { class: 'soft small' }, T.take.onnxHint, ' ', size),
    h('div', { class: 'fields' }, h('label', { for: 'form' }, T.take.form), form),
    archive,
    h('p', { class: 'soft small' }, T.take.zipHint),
    h('p', { class: 'soft small digest' }, `${T.take.digest} `, digest),
  );
  on('version', ({ model }) => {
    card.hidden = false;
    size.textContent = bytes(Number(model.size_bytes));
    digest.textContent = model.sha256;
    const side = sideOf(model.report);
    form.replaceChildren(...Object.entries(T.take.forms(side)).map(([name, text]) => h('option', { value: name }, text)));
  });
  return card;

  async function saveFile({ id, loaded, number, model }) {
    const side = sideOf(model.report);
    const variant = { stored: null, half: { precision: 'fp16' }, fixed: { height: side, width: side } }[form.value];
    const data = variant ? await api.file(id, variant) : (loaded ?? (await api.file(id)));
    save(new Blob([data]), `model-${number}${variant ? `-${form.value}` : ''}.onnx`);
  }

  async function saveArchive({ id, number }) {
    save(await api.archive(id), `model-${number}.zip`);
  }
}

/** Do some work for a button, which is disabled until it has ended. */
async function take(pressed, work) {
  const label = pressed.lastChild.textContent;
  pressed.disabled = true;
  pressed.lastChild.textContent = T.take.packing;
  try {
    await work(state.current);
  } catch (error) {
    report(error);
  } finally {
    pressed.disabled = false;
    pressed.lastChild.textContent = label;
  }
}

/** Return the largest side in pixels to which the networks of a model resize an image. */
function sideOf({ architecture, checkpoint }) {
  const branches = state.server.branches.filter(({ name }) => name in (architecture ?? {}));
  const card = state.server.checkpoints.find(({ name }) => name === `checkpoints/${checkpoint}`);
  return Math.max(card?.input.size ?? 0, ...branches.map((branch) => branch.size));
}

function save(blob, name) {
  const url = URL.createObjectURL(blob);
  h('a', { href: url, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(url), KEPT);
}
