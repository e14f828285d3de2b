// One image, large: move it to another class or remove it.

import { button, h } from './dom.js';
import { move, remove, twins } from './intake.js';
import { pictures, state } from './state.js';
import { T } from './strings.js';

/** Open the dialog. */
export function pictureDialog(picture) {
  const { kind } = pictures().find((each) => each.picture === picture);
  const url = URL.createObjectURL(picture.blob);
  const close = () => dialog.close();
  const others = state.classes.filter((each) => each !== kind);
  const select = h('select', { id: 'move' }, others.map((each) => h('option', { value: each.id, selected: each.name === picture.takenFor }, each.name)));
  const moved = () => {
    move(picture, others.find((each) => String(each.id) === select.value));
    close();
  };
  const removed = () => {
    remove(picture);
    close();
  };
  const facts = [
    ...new Set(twins(picture).map((twin) => T.picture.duplicate(twin.kind.name))),
    ...(picture.marks.has('blank') ? [T.picture.blank] : []),
    ...(picture.takenFor ? [T.picture.wrong(picture.takenFor)] : []),
    ...(picture.refusal ? [picture.refusal] : []),
  ];
  const dialog = h(
    'dialog',
    { class: 'dialog picture', 'aria-label': T.picture.title(kind.name) },
    h('div', { class: 'bar' }, h('h2', {}, kind.name), h('span', { class: 'grow' }), button('', 'close', close, { class: 'icon-button', 'aria-label': T.picture.close })),
    h('img', { src: url, alt: T.picture.title(kind.name) }),
    h('p', { class: 'soft small' }, `${picture.name} · ${picture.width} × ${picture.height}`),
    facts.map((fact) => h('p', { class: 'fact' }, fact)),
    h(
      'div',
      { class: 'row' },
      others.length > 0 && [h('label', { for: 'move' }, T.picture.move), select, h('button', { type: 'button', class: 'button primary', onclick: moved }, 'OK')],
      h('span', { class: 'grow' }),
      button(T.picture.remove, 'bin', removed, { class: 'button quiet' }),
    ),
  );
  dialog.addEventListener('close', () => {
    URL.revokeObjectURL(url);
    dialog.remove();
  });
  dialog.addEventListener('click', (event) => event.target === dialog && close());
  document.body.append(dialog);
  dialog.showModal();
}
