// Decode an image once: its thumbnail, the figures of its marks and, if it is large, a smaller copy.

import { serve } from './crew.js';

const SIDE = 112; // pixels of a thumbnail
const SENT = new Set(['image/png', 'image/jpeg', 'image/webp', 'image/bmp']); // the server reads these
const MOST = 4e5; // pixels of an image that is sent; no network looks at more than an eighth of them

serve({
  async read({ blob, type }) {
    const bitmap = await createImageBitmap(blob);
    const { width, height } = bitmap;
    const canvas = drawn(bitmap, SIDE, SIDE, Math.max(SIDE / width, SIDE / height));
    const { data } = canvas.getContext('2d').getImageData(0, 0, SIDE, SIDE);
    const thumb = await canvas.convertToBlob({ type: 'image/webp', quality: 0.85 });
    const sent = SENT.has(type) && width * height <= MOST ? blob : await reduced(bitmap);
    bitmap.close();
    return { blob: sent, thumb, width, height, hash: hashOf(data), deviation: deviationOf(data) };
  },
});

/** Draw an image at the middle of a white canvas. */
function drawn(bitmap, width, height, scale) {
  const canvas = new OffscreenCanvas(width, height);
  const pen = canvas.getContext('2d', { willReadFrequently: true });
  pen.fillStyle = '#fff';
  pen.fillRect(0, 0, width, height);
  pen.imageSmoothingQuality = 'high';
  const [wide, high] = [bitmap.width * scale, bitmap.height * scale];
  pen.drawImage(bitmap, (width - wide) / 2, (height - high) / 2, wide, high);
  return canvas;
}

function reduced(bitmap) {
  const scale = Math.min(1, Math.sqrt(MOST / (bitmap.width * bitmap.height)));
  const [width, height] = [bitmap.width, bitmap.height].map((side) => Math.max(1, Math.floor(side * scale)));
  return drawn(bitmap, width, height, scale).convertToBlob({ type: 'image/jpeg', quality: 0.93 });
}

/** FNV-1a over the pixels of the thumbnail: equal images have equal ones. */
function hashOf(data) {
  let hash = 0x811c9dc5;
  for (let i = 0; i < data.length; i += 1) hash = Math.imul(hash ^ data[i], 0x01000193);
  return hash >>> 0;
}

/** Return the standard deviation of the grey values. */
function deviationOf(data) {
  let sum = 0;
  let squares = 0;
  for (let i = 0; i < data.length; i += 4) {
    const grey = (data[i] + data[i + 1] + data[i + 2]) / 3;
    sum += grey;
    squares += grey * grey;
  }
  const count = data.length / 4;
  return Math.sqrt(Math.max(0, squares / count - (sum / count) ** 2));
}
