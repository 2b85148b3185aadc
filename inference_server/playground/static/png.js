/** Greyscale PNGs of masks, made from their runs; a canvas would take four bytes per pixel. */

import { crc32 } from "./zip.js";

const SIGNATURE = [0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a];

function chunk(name, data) {
  const bytes = new Uint8Array(data.length + 12);
  const view = new DataView(bytes.buffer);
  view.setUint32(0, data.length);
  bytes.set(new TextEncoder().encode(name), 4);
  bytes.set(data, 8);
  view.setUint32(data.length + 8, crc32(bytes.subarray(4, data.length + 8)));
  return bytes;
}

/** Compress bytes in zlib's format. */
async function deflated(bytes) {
  const stream = new Blob([bytes]).stream().pipeThrough(new CompressionStream("deflate"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

/**
 * Masks as a PNG, white on black.
 *
 * @param {import("./masks.js").Mask[]} masks their union is drawn.
 * @param {number} width of the picture.
 * @param {number} height
 * @returns {Promise<Blob>}
 */
export async function maskPng(masks, width, height) {
  // Each row begins with its filter: none.
  const rows = new Uint8Array((width + 1) * height);
  for (const { spans } of masks) {
    for (let i = 0; i < spans.length; i += 2) {
      for (let at = spans[i]; at < spans[i + 1]; at += 1) {
        rows[(at % height) * (width + 1) + Math.floor(at / height) + 1] = 255;
      }
    }
  }
  const header = new Uint8Array(13);
  const view = new DataView(header.buffer);
  view.setUint32(0, width);
  view.setUint32(4, height);
  // Eight bits of grey.
  header[8] = 8;
  const parts = [
    Uint8Array.from(SIGNATURE),
    chunk("IHDR", header),
    chunk("IDAT", await deflated(rows)),
    chunk("IEND", new Uint8Array(0)),
  ];
  return new Blob(parts, { type: "image/png" });
}
