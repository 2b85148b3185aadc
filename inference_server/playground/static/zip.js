/** Archives of files, stored without compression: PNGs are compressed already, and texts are small. */

const TABLE = Uint32Array.from({ length: 256 }, (_, n) => {
  let value = n;
  for (let bit = 0; bit < 8; bit += 1) value = value & 1 ? (value >>> 1) ^ 0xedb88320 : value >>> 1;
  return value;
});

/** @param {Uint8Array} bytes */
export function crc32(bytes) {
  let value = 0xffffffff;
  for (const byte of bytes) value = TABLE[(value ^ byte) & 255] ^ (value >>> 8);
  return (value ^ 0xffffffff) >>> 0;
}

/** Bytes of little-endian numbers, given as [size in bytes, value] pairs. */
function record(...fields) {
  const bytes = new Uint8Array(fields.reduce((sum, [size]) => sum + size, 0));
  let at = 0;
  for (const [size, value] of fields) {
    for (let i = 0; i < size; i += 1) bytes[at + i] = Math.floor(value / 256 ** i) & 255;
    at += size;
  }
  return bytes;
}

/** 1 January 1980, so that equal files make equal archives. */
const DATE = 0x21;
const UTF8 = 0x800;

/** A path in an archive: no way out of its folder, and no characters that systems refuse. */
export const safePath = (name) =>
  name
    .split(/[/\\]/)
    .filter((part) => part && part !== "." && part !== "..")
    .map((part) => part.replace(/[\p{C}<>:"|?*]/gu, "_"))
    .join("/") || "image";

/**
 * Pack files into an archive of less than 4 GiB.
 *
 * @param {{name: string, bytes: Uint8Array}[]} files
 * @returns {Blob}
 */
export function zip(files) {
  const parts = [];
  const directory = [];
  let offset = 0;
  for (const { name, bytes } of files) {
    const path = new TextEncoder().encode(name);
    const shared = [
      [2, 20], [2, UTF8], [2, 0], [2, 0], [2, DATE],
      [4, crc32(bytes)], [4, bytes.length], [4, bytes.length], [2, path.length], [2, 0],
    ];
    const head = record([4, 0x04034b50], ...shared);
    parts.push(head, path, bytes);
    directory.push(
      record([4, 0x02014b50], [2, 20], ...shared, [2, 0], [2, 0], [2, 0], [4, 0], [4, offset]),
      path,
    );
    offset += head.length + path.length + bytes.length;
  }
  const size = directory.reduce((sum, each) => sum + each.length, 0);
  const end = record(
    [4, 0x06054b50], [2, 0], [2, 0], [2, files.length], [2, files.length], [4, size], [4, offset], [2, 0],
  );
  return new Blob([...parts, ...directory, end], { type: "application/zip" });
}
