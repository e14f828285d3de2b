// Read the files of a zip archive (PKWARE APPNOTE 6.3.10: stored and deflated entries).

const END = 0x06054b50;
const ENTRY = 0x02014b50;
const LOCAL = 0x04034b50;
const MOST_BYTES = 1e9; // of all unpacked files
const UTF8 = 1 << 11; // flag of a name in UTF-8

/** Return the files as { path, blob }. Throws if the archive is damaged, encrypted or too large. */
export async function readZip(file) {
  const view = new DataView(await file.arrayBuffer());
  const files = [];
  let total = 0;
  for (const entry of entries(view)) {
    if (entry.path.endsWith('/')) continue;
    total += entry.size;
    if (entry.flags & 1 || total > MOST_BYTES) throw new Error('encrypted or too large');
    files.push({ path: entry.path, blob: await unpack(view, entry) });
  }
  return files;
}

function* entries(view) {
  let end = view.byteLength - 22;
  while (end >= 0 && view.getUint32(end, true) !== END) end -= 1;
  if (end < 0) throw new Error('no end of central directory');
  let at = view.getUint32(end + 16, true);
  for (let left = view.getUint16(end + 10, true); left > 0; left -= 1) {
    if (view.getUint32(at, true) !== ENTRY) throw new Error('damaged directory');
    const [name, extra, comment] = [28, 30, 32].map((offset) => view.getUint16(at + offset, true));
    yield {
      flags: view.getUint16(at + 8, true),
      method: view.getUint16(at + 10, true),
      packed: view.getUint32(at + 20, true),
      size: view.getUint32(at + 24, true),
      start: view.getUint32(at + 42, true),
      path: nameOf(new Uint8Array(view.buffer, at + 46, name), view.getUint16(at + 8, true)),
    };
    at += 46 + name + extra + comment;
  }
}

/** Return a path with slashes. Without the flag the encoding is unknown; most programs write UTF-8. */
function nameOf(encoded, flags) {
  const decode = (encoding, fatal) => new TextDecoder(encoding, { fatal }).decode(encoded).replaceAll('\\', '/');
  try {
    return decode('utf-8', !(flags & UTF8));
  } catch {
    return decode('windows-1252', false);
  }
}

async function unpack(view, { method, packed, start }) {
  if (view.getUint32(start, true) !== LOCAL) throw new Error('damaged entry');
  const from = start + 30 + view.getUint16(start + 26, true) + view.getUint16(start + 28, true);
  const blob = new Blob([new Uint8Array(view.buffer, from, packed)]);
  if (method === 0) return blob;
  if (method !== 8) throw new Error(`compression method ${method}`);
  return new Response(blob.stream().pipeThrough(new DecompressionStream('deflate-raw'))).blob();
}
