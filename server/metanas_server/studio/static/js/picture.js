// One image: decoded once for its thumbnail, its marks and, if it is large, a smaller copy.

import { nextId } from './state.js';

const SIDE = 112; // pixels of a thumbnail
const SENT = new Set(['image/png', 'image/jpeg', 'image/webp', 'image/bmp']); // the server reads these
const TYPES = { png: 'image/png', jpg: 'image/jpeg', jpeg: 'image/jpeg', webp: 'image/webp', bmp: 'image/bmp' };
const LARGE = 2e6; // pixels; a larger image is reduced, as no checkpoint looks at so many
const REDUCED = 1280; // pixels of the longer side then
const BLANK = 3; // standard deviation of grey values, of 255
const AT_ONCE = 4;

/** Return a picture. Throws if the browser cannot decode it. */
export async function makePicture({ path, blob }) {
  const bitmap = await createImageBitmap(blob);
  const { width, height } = bitmap;
  const thumb = document.createElement('canvas');
  thumb.width = thumb.height = SIDE;
  const pen = thumb.getContext('2d', { willReadFrequently: true });
  const scale = Math.max(SIDE / width, SIDE / height);
  pen.fillStyle = '#fff';
  pen.fillRect(0, 0, SIDE, SIDE);
  pen.imageSmoothingQuality = 'high';
  pen.drawImage(bitmap, (SIDE - width * scale) / 2, (SIDE - height * scale) / 2, width * scale, height * scale);
  const { data } = pen.getImageData(0, 0, SIDE, SIDE);
  const type = blob.type || TYPES[path.split('.').pop().toLowerCase()] || '';
  const sent = SENT.has(type) && width * height <= LARGE ? blob : await reduced(bitmap);
  bitmap.close();
  return { id: nextId(), name: path, blob: sent, thumb, width, height, hash: hashOf(data), marks: marksOf(data), takenFor: '' };
}

/** Make pictures of many files, several at once; `onEach` gets each picture, or null, in order. */
export async function makePictures(files, onEach) {
  const running = files.slice(0, AT_ONCE).map(attempt);
  for (let index = 0; index < files.length; index += 1) {
    const picture = await running[index];
    if (index + AT_ONCE < files.length) running.push(attempt(files[index + AT_ONCE]));
    running[index] = null;
    onEach(picture, files[index], index);
  }
}

const attempt = (file) => makePicture(file).catch(() => null);

async function reduced(bitmap) {
  const scale = Math.min(1, REDUCED / Math.max(bitmap.width, bitmap.height));
  const canvas = new OffscreenCanvas(Math.max(1, Math.round(bitmap.width * scale)), Math.max(1, Math.round(bitmap.height * scale)));
  const pen = canvas.getContext('2d');
  pen.fillStyle = '#fff';
  pen.fillRect(0, 0, canvas.width, canvas.height);
  pen.imageSmoothingQuality = 'high';
  pen.drawImage(bitmap, 0, 0, canvas.width, canvas.height);
  return canvas.convertToBlob({ type: 'image/jpeg', quality: 0.93 });
}

/** FNV-1a over the pixels of the thumbnail: equal images have equal ones. */
function hashOf(data) {
  let hash = 0x811c9dc5;
  for (let i = 0; i < data.length; i += 1) hash = Math.imul(hash ^ data[i], 0x01000193);
  return hash >>> 0;
}

function marksOf(data) {
  let sum = 0;
  let squares = 0;
  for (let i = 0; i < data.length; i += 4) {
    const grey = (data[i] + data[i + 1] + data[i + 2]) / 3;
    sum += grey;
    squares += grey * grey;
  }
  const count = data.length / 4;
  const deviation = Math.sqrt(Math.max(0, squares / count - (sum / count) ** 2));
  return new Set(deviation < BLANK ? ['blank'] : []);
}
