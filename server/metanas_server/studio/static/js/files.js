// Find images in a drop or a choice: files, folders of folders, zip archives.

import { readZip } from './zip.js';

const IMAGE = /\.(png|jpe?g|webp|bmp|gif|avif)$/i;
const ARCHIVE = /\.zip$/i;
const HIDDEN = /(^|\/)(\.|__MACOSX)/;

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
    if (!ARCHIVE.test(file.path)) all.push(file);
    else for (const inner of await readZip(file.blob)) all.push(inner);
  }
  return all.filter(({ path, blob }) => !HIDDEN.test(path) && (IMAGE.test(path) || blob.type.startsWith('image/')));
}

/** Group files by the folder they are in: Map of class name to files; '' for loose files. */
export function byFolder(files) {
  const groups = new Map();
  const sorted = [...files].sort((a, b) => a.path.localeCompare(b.path, 'en', { numeric: true }));
  for (const file of sorted) {
    const name = file.path.split('/').at(-2) ?? '';
    groups.set(name, [...(groups.get(name) ?? []), file]);
  }
  return groups;
}
