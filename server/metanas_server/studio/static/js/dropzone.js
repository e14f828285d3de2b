// A place for dropped files, which a click or a key fills as well.

import { h } from './dom.js';
import { chosen, dropped } from './files.js';

/** Let an element take files; `take` gets a promise of them. */
export function dropzone(element, take) {
  let depth = 0;
  const over = (change) => {
    depth = Math.max(0, depth + change);
    element.classList.toggle('over', depth > 0);
  };
  const hasFiles = (event) => event.dataTransfer.types.includes('Files');
  element.addEventListener('dragenter', (event) => hasFiles(event) && (event.preventDefault(), over(1)));
  element.addEventListener('dragover', (event) => hasFiles(event) && event.preventDefault());
  element.addEventListener('dragleave', (event) => hasFiles(event) && over(-1));
  element.addEventListener('drop', (event) => {
    if (!hasFiles(event)) return;
    event.preventDefault();
    event.stopPropagation();
    depth = 0;
    over(0);
    take(dropped(event.dataTransfer));
  });
  return element;
}

/** Open the browser's dialog for files, or for a folder. */
export function choose(take, { folder = false, accept = 'image/*,.zip' } = {}) {
  const input = h('input', { type: 'file', multiple: true, class: 'unseen', 'aria-hidden': 'true', tabindex: '-1' });
  if (folder) input.webkitdirectory = true;
  else input.accept = accept;
  input.addEventListener('change', () => {
    input.remove();
    if (input.files.length) take(chosen(input.files));
  });
  input.addEventListener('cancel', () => input.remove());
  document.body.append(input);
  input.click();
}
