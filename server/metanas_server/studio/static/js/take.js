// Take the model: the file itself, or an archive with a page and a script.

import * as api from './api.js';
import { button, h } from './dom.js';
import { report } from './notices.js';
import { on, state } from './state.js';
import { T, bytes } from './strings.js';

const KEPT = 60000; // milliseconds that a browser gets to save a file

/** Return the card. */
export function takeCard() {
  const size = h('span', { class: 'soft' });
  const digest = h('code', {});
  const file = button(T.take.onnx, 'download', saveFile, { class: 'button wide' });
  const archive = button(T.take.zip, 'download', saveArchive, { class: 'button wide' });
  const card = h('section', { class: 'card take', 'aria-labelledby': 'take', hidden: true }, h('h2', { id: 'take' }, T.take.title), file, h('p', { class: 'soft small' }, T.take.onnxHint, ' ', size), archive, h('p', { class: 'soft small' }, T.take.zipHint), h('p', { class: 'soft small digest' }, `${T.take.digest} `, digest));
  on('version', ({ model }) => {
    card.hidden = false;
    size.textContent = bytes(Number(model.size_bytes));
    digest.textContent = model.sha256;
  });
  return card;

  async function saveFile() {
    const { id, loaded, number } = state.current;
    try {
      save(new Blob([loaded ?? (await api.file(id))]), `model-${number}.onnx`);
    } catch (error) {
      report(error);
    }
  }

  async function saveArchive() {
    const { id, number } = state.current;
    archive.disabled = true;
    archive.lastChild.textContent = T.take.packing;
    try {
      save(await api.archive(id), `model-${number}.zip`);
    } catch (error) {
      report(error);
    } finally {
      archive.disabled = false;
      archive.lastChild.textContent = T.take.zip;
    }
  }
}

function save(blob, name) {
  const url = URL.createObjectURL(blob);
  h('a', { href: url, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(url), KEPT);
}
