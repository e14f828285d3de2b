// Pictures: what the page knows about an image. A worker decodes; the page stays responsive.

import { crew } from './crew.js';
import { h } from './dom.js';
import { nextId } from './state.js';

const TYPES = { png: 'image/png', jpg: 'image/jpeg', jpeg: 'image/jpeg', webp: 'image/webp', bmp: 'image/bmp' };
const BLANK = 3; // standard deviation of grey values, of 255
const AT_ONCE = 2; // decoded images in memory
const ask = crew('/static/js/picture-worker.js');

/** Return a picture. Throws if the browser cannot decode it. */
export async function makePicture({ path, blob }) {
  const type = blob.type || TYPES[path.split('.').pop().toLowerCase()] || '';
  const { thumb, deviation, ...read } = await ask('read', { blob, type });
  const marks = new Set(deviation < BLANK ? ['blank'] : []);
  return { ...read, id: nextId(), name: path, thumb: URL.createObjectURL(thumb), marks, takenFor: '' };
}

/** Return the thumbnail; the browser decodes it when it comes into view. */
export const thumbnail = ({ thumb }) => h('img', { src: thumb, alt: '', loading: 'lazy', decoding: 'async', draggable: 'false' });

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
