// Run a model in a thread of its own: the page stays responsive.

import * as ort from '/static/onnxruntime-web-1.30.0/ort.wasm.bundle.min.mjs';

import { serve } from './crew.js';

ort.env.wasm.numThreads = 1;
ort.env.wasm.wasmPaths = { wasm: '/static/onnxruntime-web-1.30.0/ort-wasm-simd-threaded.wasm' };
ort.env.logLevel = 'error';

let session = null;
let channels = 3;
let canvas = null;

const tasks = {
  async load({ bytes, channels: wanted }) {
    await session?.release();
    session = null;
    session = await ort.InferenceSession.create(new Uint8Array(bytes), { executionProviders: ['wasm'] });
    channels = wanted;
    const side = 8; // the first run allocates
    const blank = new ort.Tensor('uint8', new Uint8Array(side * side * channels), [1, side, side, channels]);
    await session.run({ images: blank });
    return {};
  },
  async run({ bitmap }) {
    const { width, height } = bitmap;
    const pixels = pixelsOf(bitmap);
    bitmap.close();
    const start = performance.now();
    const images = new ort.Tensor('uint8', pixels, [1, height, width, channels]);
    const outputs = await session.run({ images });
    const known = outputs.known ? outputs.known.data[0] : 1;
    return { probabilities: [...outputs.probabilities.data], known, milliseconds: performance.now() - start };
  },
};

let turn = Promise.resolve(); // one task after the other

const inTurn = (task) => (content) => {
  const result = turn.then(() => task(content));
  turn = result.catch(() => {});
  return result;
};

serve(Object.fromEntries(Object.entries(tasks).map(([name, task]) => [name, inTurn(task)])));

/** Return the pixels as the server decodes them: on white, RGB, or grey by ITU-R 601-2 luma. */
function pixelsOf(bitmap) {
  const { width, height } = bitmap;
  if (canvas?.width !== width || canvas?.height !== height) canvas = new OffscreenCanvas(width, height);
  const pen = canvas.getContext('2d', { willReadFrequently: true });
  pen.fillStyle = '#fff';
  pen.fillRect(0, 0, width, height);
  pen.drawImage(bitmap, 0, 0);
  const rgba = pen.getImageData(0, 0, width, height).data;
  const pixels = new Uint8Array(width * height * channels);
  for (let from = 0, to = 0; from < rgba.length; from += 4, to += channels) {
    if (channels === 3) {
      pixels[to] = rgba[from];
      pixels[to + 1] = rgba[from + 1];
      pixels[to + 2] = rgba[from + 2];
    } else {
      pixels[to] = (19595 * rgba[from] + 38470 * rgba[from + 1] + 7471 * rgba[from + 2] + 32768) >> 16;
    }
  }
  return pixels;
}
