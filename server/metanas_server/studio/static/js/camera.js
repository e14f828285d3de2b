// The webcam: a stream, its frames, and the dialog that collects images while a button is held.

import { button, h, say } from './dom.js';
import { notify } from './notices.js';
import { T } from './strings.js';

const EVERY = 220; // milliseconds between two collected images
const QUALITY = 0.92;

/** Return a video that shows the webcam, or null with a notice. `stop` ends it. */
export async function openCamera() {
  if (!navigator.mediaDevices) {
    notify(T.camera.insecure, 'bad');
    return null;
  }
  try {
    const stream = await navigator.mediaDevices.getUserMedia({ video: { width: 640, height: 480 } });
    const video = h('video', { autoplay: true, playsinline: true, prop: { muted: true, srcObject: stream }, 'aria-label': T.tryout.live });
    await video.play();
    return { video, stop: () => stream.getTracks().forEach((track) => track.stop()) };
  } catch (error) {
    notify(T.camera.refused, 'bad');
    console.error(error);
    return null;
  }
}

/** Open the dialog; `take` gets a blob for each image. */
export async function cameraDialog(name, take) {
  const camera = await openCamera();
  if (!camera) return;
  const { video } = camera;
  let timer = 0;
  let collected = 0;
  const shown = h('p', { class: 'soft' }, T.camera.hint);
  const snap = async () => {
    const canvas = new OffscreenCanvas(video.videoWidth, video.videoHeight);
    canvas.getContext('2d').drawImage(video, 0, 0);
    collected += 1;
    shown.textContent = T.camera.collected(collected);
    await take(await canvas.convertToBlob({ type: 'image/jpeg', quality: QUALITY }));
  };
  const begin = () => {
    if (timer) return;
    snap();
    timer = setInterval(snap, EVERY);
    hold.classList.add('held');
  };
  const end = () => {
    clearInterval(timer);
    timer = 0;
    hold.classList.remove('held');
  };
  const hold = button(T.camera.hold, 'camera', () => {}, { class: 'button primary hold' });
  hold.addEventListener('pointerdown', begin);
  for (const event of ['pointerup', 'pointerleave', 'pointercancel', 'keyup', 'blur']) hold.addEventListener(event, end);
  hold.addEventListener('keydown', (event) => [' ', 'Enter'].includes(event.key) && begin());
  const dialog = h(
    'dialog',
    { class: 'dialog camera', 'aria-label': T.camera.title(name) },
    h('h2', {}, name),
    h('div', { class: 'mirror' }, video),
    shown,
    h('div', { class: 'row' }, hold, h('span', { class: 'grow' }), button(T.camera.done, 'check', () => dialog.close())),
  );
  dialog.addEventListener('close', () => {
    end();
    camera.stop();
    dialog.remove();
    say(T.camera.collected(collected));
  });
  document.body.append(dialog);
  dialog.showModal();
  hold.focus();
}
