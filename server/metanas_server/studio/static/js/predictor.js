// Predictions of the version in use, from the bytes that are downloaded.

import { crew } from './crew.js';

const ask = crew('/static/js/predict-worker.js');

/** Load a model; ONNX Runtime is fetched when this is first called. */
export const load = (bytes, channels) => ask('load', { bytes: bytes.slice(0), channels });

/** Classify an image: { probabilities, known, milliseconds }. */
export async function predict(source) {
  const bitmap = await createImageBitmap(source);
  return ask('run', { bitmap }, [bitmap]);
}
