// Find images in a drop or a choice: files, folders of folders, zip archives.

import { readZip } from './zip.js';

const IMAGE = /\.(png|jpe?g|webp|bmp|gif|avif|heic|heif|tiff?)$/i; // the browser may not read the last three
const ARCHIVE = /\.zip$/i;
const LITTER = /(^|\/)(\.|__MACOSX|@eaDir|\$RECYCLE\.BIN|System Volume Information)/i;

/** Return the files of a drop as { path, blob }. Call it in the event's own turn. */
export async function dropped(transfer) {
  const roots = [...transfer.items].map((item) => item.webkitGetAsEntry?.()).filter(Boolean);
  if (!roots.length) return chosen(transfer.files);
  const found = [];
  for (const root of roots) await walk(root, found);
  return unpacked(found);
}

/** Return the files of an input as { path, blob }. */
export async function chosen(list) {
  return unpacked([...list].map((file) => ({ path: file.webkitRelativePath || file.name, blob: file })));
}

async function walk(entry, found) {
  if (entry.isFile) {
    const file = await new Promise((resolve, reject) => entry.file(resolve, reject));
    found.push({ path: entry.fullPath.replace(/^\//, ''), blob: file });
    return;
  }
  const reader = entry.createReader();
  for (;;) {
    const some = await new Promise((resolve, reject) => reader.readEntries(resolve, reject));
    if (!some.length) return;
    for (const each of some) await walk(each, found);
  }
}

async function unpacked(files) {
  const all = [];
  for (const file of files) {
    if (LITTER.test(file.path)) continue;
    if (ARCHIVE.test(file.path)) all.push(...(await readZip(file.blob)));
    else all.push(file);
  }
  return all.filter(({ path, blob }) => !LITTER.test(path) && (IMAGE.test(path) || blob.type.startsWith('image/')));
}

/**
 * Group files by class: Map of class name to files; '' for loose files, null for files beside the
 * folders of the classes. A class is the uppermost folder that holds images itself.
 */
export function byClass(files) {
  const sorted = [...files].sort((a, b) => a.path.localeCompare(b.path, 'en', { numeric: true }));
  const folders = new Map(sorted.map((file) => [file, file.path.normalize('NFC').split('/').slice(0, -1)]));
  const depth = sharedDepth([...folders.values()]);
  const holders = new Set([...folders.values()].map((path) => path.join('/')));
  const classOf = (path) => path.find((_, index) => index >= depth && holders.has(path.slice(0, index + 1).join('/'))) ?? null;
  const groups = Map.groupBy(sorted, (file) => classOf(folders.get(file)));
  if (!groups.has(null) || groups.size > 2) return groups;
  const root = sorted[0].path.split('/')[depth - 1];
  if (root !== undefined) return new Map([[root, sorted]]);
  groups.set('', groups.get(null));
  groups.delete(null);
  return groups;
}

/** Return the number of folders at the beginning that all paths have in common. */
function sharedDepth([first = [], ...others]) {
  const lengths = others.map((path) => {
    const end = first.findIndex((name, index) => name !== path[index]);
    return end < 0 ? first.length : end;
  });
  return Math.min(first.length, ...lengths);
}
