// Predictions of the version in use, from the bytes that are downloaded.

let worker = null;
let lastId = 0;
const waiting = new Map();

/** Load a model; ONNX Runtime is fetched when this is first called. */
export const load = (bytes, channels) => ask('load', { bytes: bytes.slice(0), channels });

/** Classify an image: { probabilities, known, milliseconds }. */
export async function predict(source) {
  const bitmap = await createImageBitmap(source);
  return ask('run', { bitmap }, [bitmap]);
}

function ask(task, content, transfer = []) {
  worker ??= start();
  lastId += 1;
  const id = lastId;
  worker.postMessage({ id, task, ...content }, transfer);
  return new Promise((resolve, reject) => waiting.set(id, { resolve, reject }));
}

function start() {
  const made = new Worker('/static/js/worker.js', { type: 'module' });
  made.onmessage = ({ data: { id, result, error } }) => {
    const { resolve, reject } = waiting.get(id);
    waiting.delete(id);
    if (error) reject(new Error(error));
    else resolve(result);
  };
  made.onerror = (event) => {
    for (const { reject } of waiting.values()) reject(new Error(event.message ?? 'the worker has failed'));
    waiting.clear();
    worker = null;
  };
  return made;
}
