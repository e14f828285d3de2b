// The state of the page, and the events that tell its parts about changes.

export const state = {
  server: null, // GET /api/server
  classes: [], // { id, name, hue, pictures }
  versions: [], // { number, id, model, shots, tested }
  current: null, // the version in use
  busy: false, // an adaptation is running
  dirty: false, // images changed since the last version
};

const bus = new EventTarget();
let lastId = 0;

/** Return a number that nothing else on the page has. */
export const nextId = () => (lastId += 1);

/** Tell the listeners of an event. */
export const emit = (name, detail) => bus.dispatchEvent(new CustomEvent(name, { detail }));

/** Call a function at each event: images, version, progress, model. */
export const on = (name, listener) => bus.addEventListener(name, (event) => listener(event.detail));

/** All pictures with their classes. */
export const pictures = () => state.classes.flatMap((kind) => kind.pictures.map((picture) => ({ kind, picture })));

/** The class with this name. */
export const classNamed = (name) => state.classes.find((kind) => kind.name === name);
