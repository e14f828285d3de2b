// Notices above the page, and the banner while the server does not answer.

import * as api from './api.js';
import { button, h, icon, say } from './dom.js';
import { T } from './strings.js';

const POLL = 2000; // milliseconds between two tries to reach the server
const area = h('div', { class: 'notices' });
let banner = null;

/** Return the element that holds the notices. */
export const notices = () => area;

/** Show a notice until it is dismissed. */
export function notify(sentence, kind = 'warning') {
  const notice = h('div', { class: `notice ${kind}`, role: kind === 'bad' ? 'alert' : 'status' }, icon(kind === 'good' ? 'check' : 'alert'), h('p', {}, sentence));
  notice.append(button('', 'close', () => notice.remove(), { class: 'icon-button', 'aria-label': T.collect.dismiss }));
  area.append(notice);
  return notice;
}

/** Remove all notices. */
export const clearNotices = () => area.querySelectorAll('.notice:not(.lost)').forEach((each) => each.remove());

/** Show an error: a banner while the server cannot be reached, else a notice. */
export function report(error) {
  if (error instanceof api.Unreachable) lost();
  else if (error.status === 401) askForToken();
  else notify(error instanceof api.ApiError ? error.message : T.errors.unexpected(error.message), 'bad');
}

/** Show the banner, and remove it as soon as the server answers. */
export async function lost() {
  if (banner) return;
  banner = h('div', { class: 'notice bad lost', role: 'alert' }, icon('alert'), h('p', {}, T.errors.unreachable));
  area.prepend(banner);
  while (banner) {
    await new Promise((resolve) => setTimeout(resolve, POLL));
    const failed = await api.server().then(() => null, (error) => error);
    if (!(failed instanceof api.Unreachable)) {
      banner.remove();
      banner = null;
      say(T.errors.back);
    }
  }
}

/** Ask for the token and load the page again with it. */
export function askForToken() {
  if (document.querySelector('dialog.token')) return;
  const input = h('input', { type: 'password', id: 'token', autocomplete: 'off', required: true });
  const send = (event) => {
    event.preventDefault();
    api.setToken(input.value.trim());
    location.reload();
  };
  const form = h('form', { onsubmit: send }, h('p', { role: 'alert' }, api.hasToken() ? T.errors.tokenWrong : T.errors.token), h('label', { for: 'token' }, T.errors.tokenLabel), input, h('button', { class: 'button primary' }, T.errors.tokenSend));
  const dialog = h('dialog', { class: 'dialog token', 'aria-label': T.errors.token, oncancel: (event) => event.preventDefault() }, form);
  document.body.append(dialog);
  dialog.showModal();
}
