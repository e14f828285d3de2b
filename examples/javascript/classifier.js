// A classifier from a model of MetaNAS Server, for browsers and Node.

/** Load a model; `about` is what `metanas show model.onnx --json` prints. */
export async function load(ort, model, about) {
  ort.env.wasm.numThreads = 1; // more need a page that is isolated from other origins
  const session = await ort.InferenceSession.create(model);
  return async ({ data, width, height }) => {
    const pixels = convert(data, about.channels);
    const images = new ort.Tensor('uint8', pixels, [1, height, width, about.channels]);
    const { probabilities } = await session.run({ images }, ['probabilities']);
    const answers = about.labels.map((label, i) => ({ label, probability: probabilities.data[i] }));
    return answers.sort((one, other) => other.probability - one.probability);
  };
}

/** Convert RGBA pixels to RGB, or to the grey of Pillow. */
export function convert(rgba, channels) {
  const pixels = new Uint8Array((rgba.length / 4) * channels);
  if (channels === 3) {
    for (let from = 0, to = 0; from < rgba.length; from += 4, to += 3) {
      pixels[to] = rgba[from];
      pixels[to + 1] = rgba[from + 1];
      pixels[to + 2] = rgba[from + 2];
    }
  } else {
    for (let from = 0, to = 0; from < rgba.length; from += 4, to += 1) {
      pixels[to] = (19595 * rgba[from] + 38470 * rgba[from + 1] + 7471 * rgba[from + 2] + 32768) >> 16;
    }
  }
  return pixels;
}
