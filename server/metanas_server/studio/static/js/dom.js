// Build elements, and speak to screen readers.

const SVG = 'http://www.w3.org/2000/svg';

/** Return an element. `on…` properties are listeners; `dataset`, `style` and `prop` are objects. */
export function h(tag, attributes = {}, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

/** Return an SVG element. */
export function svg(tag, attributes = {}, ...children) {
  return fill(document.createElementNS(SVG, tag), attributes, children);
}

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith('on')) element.addEventListener(name.slice(2), value);
    else if (name === 'style') for (const [key, each] of Object.entries(value)) element.style.setProperty(key, each);
    else if (name === 'prop') Object.assign(element, value);
    else element.setAttribute(name, value === true ? '' : value);
  }
  element.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

const PATHS = {
  folder: 'M3 6.5A1.5 1.5 0 0 1 4.5 5h4l2 2.5h9A1.5 1.5 0 0 1 21 9v9a1.5 1.5 0 0 1-1.5 1.5h-15A1.5 1.5 0 0 1 3 18z',
  images: 'M4 5h16v14H4zM4 16l4.5-4.5 4 4 2.5-2.5 5 5M15.5 9.5h.01',
  zip: 'M6 3h9l4 4v14H6zM11 3v2m0 2v2m0 2v2m0 2v2',
  camera: 'M4 7.5h3l1.5-2h7l1.5 2h3v11H4zM12 16a3.2 3.2 0 1 0 0-6.4 3.2 3.2 0 0 0 0 6.4z',
  plus: 'M12 5v14M5 12h14',
  close: 'M6 6l12 12M18 6 6 18',
  bin: 'M5 7h14M10 7V4.5h4V7M7 7l.8 12.5h8.4L17 7',
  download: 'M12 4v11M7.5 11 12 15.5 16.5 11M5 19.5h14',
  spark: 'M12 3v5M12 16v5M3 12h5M16 12h5M6 6l3 3M15 15l3 3M18 6l-3 3M9 15l-3 3',
  check: 'M5 12.5 10 17.5 19.5 7',
  alert: 'M12 4 2.8 19.5h18.4zM12 10v4.5M12 17h.01',
};

/** Return a decorative icon. */
export function icon(name) {
  const path = svg('path', { d: PATHS[name] });
  return svg('svg', { class: 'icon', viewBox: '0 0 24 24', 'aria-hidden': 'true' }, path);
}

/** Return a button with an icon. */
export function button(label, name, onclick, attributes = {}) {
  return h('button', { type: 'button', class: 'button', onclick, ...attributes }, name && icon(name), h('span', {}, label));
}

const live = h('div', { class: 'unseen', 'aria-live': 'polite', role: 'status' });

/** Return the element through which `say` speaks; put it into the page once. */
export function liveRegion() {
  return live;
}

/** Say a sentence to screen readers. */
export function say(sentence) {
  live.textContent = sentence;
}
