// Classify images in Node: node classify.js model.onnx model.json photo.jpg ...
import { readFile } from 'node:fs/promises';
import * as ort from 'onnxruntime-web';
import sharp from 'sharp';
import { load } from './classifier.js';

const [model, about, ...paths] = process.argv.slice(2);
if (paths.length === 0) {
  console.error('usage: node classify.js model.onnx model.json photo.jpg ...');
  process.exit(2);
}
const classify = await load(ort, await readFile(model), JSON.parse(await readFile(about, 'utf8')));
for (const path of paths) {
  const upright = sharp(path).rotate().flatten({ background: 'white' }).toColourspace('srgb').ensureAlpha();
  const { data, info } = await upright.raw().toBuffer({ resolveWithObject: true });
  const [best] = await classify({ data, width: info.width, height: info.height });
  console.log(`${path}\t${best.label}\t${best.probability.toFixed(3)}`);
}
