/**
 * What the page asks other APIs of the server for: SAM's three masks of a click or box, and masks of
 * everything. Both send the file; its embedding is cached under the digest of the file.
 *
 * @typedef {{mask: Mask, score: number, model: string}} Candidate
 */

import { Mask } from "./masks.js";
import { maskOf } from "./polygons.js";
import { enlarged } from "./remote.js";
import { request } from "./server.js";

/** Grid of clicks per side: a quarter of the reference's clicks, for servers without a GPU. */
const GRID = 16;

/** The mask of a PNG whose object is white. @param {string} png in base64. */
async function maskOfPng(png) {
  const bytes = Uint8Array.from(atob(png), (each) => each.charCodeAt(0));
  const bitmap = await createImageBitmap(new Blob([bytes], { type: "image/png" }));
  const { width, height } = bitmap;
  const canvas = new OffscreenCanvas(width, height);
  const context = canvas.getContext("2d");
  context.drawImage(bitmap, 0, 0);
  bitmap.close();
  const { data } = context.getImageData(0, 0, width, height);
  const spans = [];
  for (let x = 0, at = 0; x < width; x += 1) {
    for (let y = 0; y < height; y += 1, at += 1) {
      if (data[4 * (y * width + x)] < 128) continue;
      if (spans.at(-1) === at) spans[spans.length - 1] = at + 1;
      else spans.push(at, at + 1);
    }
  }
  return Mask.fromSpans(spans, height, width);
}

/** A mask of the copy that was sent, at the size of the picture. */
const fitted = (mask, { scale, width, height }) =>
  scale === 1 ? mask : enlarged(mask, 1 / scale, height, width);

/**
 * SAM's masks of different extent for one click or one box, best first.
 *
 * @param {import("./picture.js").Picture} picture
 * @param {import("./prompts.js").Prompt} object
 * @returns {Promise<Candidate[]>}
 */
export async function candidates(picture, { points, box }) {
  const s = picture.scale;
  const { value: image } = await picture.sent();
  const inputs = { image, multimask_output: true, confidence_threshold: 0 };
  if (points.length) {
    inputs.points = points.map(({ x, y }) => [x * s, y * s]);
    inputs.point_labels = points.map(({ positive }) => (positive ? 1 : 0));
  }
  if (box) {
    inputs.boxes = [[box.x0 * s, box.y0 * s, box.x1 * s, box.y1 * s]];
    inputs.box_labels = [1];
  }
  const { body, exchange } = await request("api/sam2_compatible", { inputs });
  const masks = await Promise.all(body.masks.map(maskOfPng));
  return masks
    .map((mask, i) => ({ mask: fitted(mask, picture), score: body.scores[i], model: exchange.model }))
    .sort((a, b) => b.score - a.score);
}

/**
 * Masks of everything in a picture.
 *
 * @param {import("./picture.js").Picture} picture
 * @param {"sam" | "sam2" | "sam3"} family model family.
 * @returns {Promise<Candidate[]>}
 */
export async function everything(picture, family) {
  const form = new FormData();
  const fields = { model_version: family, points_per_side: GRID, output_format: "geojson" };
  for (const [name, value] of Object.entries(fields)) form.append(name, String(value));
  form.append("file", picture.sentFile, picture.name);
  const { body, exchange } = await request("segment/automatic", form);
  const objects = new Map();
  for (const { properties, geometry } of body.features) {
    const known = objects.get(properties.value) ?? { score: properties.score ?? 1, parts: [] };
    known.parts.push(geometry.coordinates);
    objects.set(properties.value, known);
  }
  const [width, height] = [picture.width, picture.height].map((side) => Math.round(side * picture.scale));
  return [...objects.values()].map(({ score, parts }) => {
    const mask = maskOf(parts, height, width);
    return { mask: fitted(mask, picture), score, model: exchange.model };
  });
}
