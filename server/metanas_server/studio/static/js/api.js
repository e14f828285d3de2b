// Calls of the JSON API; /static/openapi.json describes it.

const RETRIES = 600;
const SHOWN = 3; // violations in a message
const PAUSE = 1000; // milliseconds between two tries

/** An answer that is no success. `violations` name the images that it is about. */
export class ApiError extends Error {
  constructor(status, failure) {
    super(failure.violations?.map(({ message }) => message).slice(0, SHOWN).join('; ') || failure.message || `HTTP ${status}`);
    this.status = status;
    this.reason = failure.reason ?? '';
    this.violations = failure.violations ?? [];
    this.retrySeconds = failure.retry_seconds ?? null;
  }
}

/** The server could not be reached. */
export class Unreachable extends Error {}

const token = {
  get: () => sessionStorage.getItem('token') ?? '',
  set: (value) => sessionStorage.setItem('token', value),
};

export const setToken = token.set;
export const hasToken = () => token.get() !== '';

async function call(path, options = {}) {
  const headers = token.get() ? { authorization: `Bearer ${token.get()}` } : {};
  let answer;
  try {
    answer = await fetch(`/api/${path}`, { ...options, headers });
  } catch (error) {
    if (error.name === 'AbortError') throw error;
    throw new Unreachable(String(error));
  }
  if (!answer.ok) throw new ApiError(answer.status, await answer.json().catch(() => ({})));
  return answer;
}

const last = (name) => name.split('/').pop();

export const server = async () => (await call('server')).json();
export const model = async (id) => (await call(`models/${id}`)).json();
/** Return the bytes of a model, or of a variant: precision, height and width. */
export const file = async (id, variant = {}) => (await call(`models/${id}/model.onnx?${new URLSearchParams(variant)}`)).arrayBuffer();
export const archive = async (id) => (await call(`models/${id}/model.zip`)).blob();
export const cancel = async (id) => (await call(`adaptations/${id}/cancel`, { method: 'POST' })).json();

/**
 * Send a support set: `spec` with the labels, and one blob for each label. Returns the id.
 * Waits while the server is full; `onFull` is called then, and `signal` ends it.
 */
export async function create(spec, blobs, { signal, onFull }) {
  const form = new FormData();
  form.append('spec', new Blob([JSON.stringify(spec)], { type: 'application/json' }));
  for (const blob of blobs) form.append('images', blob, 'image');
  for (;;) {
    try {
      const created = await (await call('adaptations', { method: 'POST', body: form, signal })).json();
      return last(created.name);
    } catch (error) {
      if (error.status !== 429 || error.retrySeconds === null) throw error;
      onFull();
      await pause(1000 * error.retrySeconds, signal);
    }
  }
}

/** Wait for some milliseconds. */
function pause(time, signal) {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(resolve, time);
    signal?.addEventListener('abort', () => (clearTimeout(timer), reject(signal.reason)), { once: true });
  });
}

/** Follow an adaptation to its end and return it. `onProgress` gets each step, `onState` each state. */
export async function follow(id, { onProgress, onState, onLost }) {
  let after = 0;
  for (let tries = 0; ; tries += 1) {
    try {
      const path = `adaptations/${id}/events?after=${after}`;
      for await (const { name, data } of events(await call(path))) {
        tries = 0;
        if (name === 'error') throw new Unreachable(data.message);
        if (name === 'progress') {
          after = Number(data.sequence);
          onProgress(data);
        } else {
          onState(data);
          if (data.end_time) return data;
        }
      }
    } catch (error) {
      const passing = error instanceof Unreachable || error.name === 'TypeError' || error.status === 503;
      if (!passing || tries >= RETRIES) throw error;
      onLost();
    }
    await pause(PAUSE);
  }
}

/** Yield the events of a text/event-stream. EventSource can send no token. */
async function* events(answer) {
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  for (let text = ''; ; ) {
    const { done, value } = await reader.read();
    if (done) return;
    text += value;
    for (let end = text.indexOf('\n\n'); end >= 0; end = text.indexOf('\n\n')) {
      const fields = Object.fromEntries(text.slice(0, end).split('\n').map((line) => line.split(/: (.*)/s)));
      text = text.slice(end + 2);
      if (fields.data) yield { name: fields.event, data: JSON.parse(fields.data) };
    }
  }
}
