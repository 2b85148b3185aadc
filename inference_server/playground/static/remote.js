/** Pictures on the server: uploads, requests by image id, and their results. */

import { Mask } from "./masks.js";
import { maskOf, partsOf } from "./polygons.js";
import { objectPath, previewRequest } from "./prompts.js";
import { request } from "./server.js";

/** @typedef {import("./picture.js").Picture} Picture */
/** @typedef {import("./document.js").Result} Result */

export class Remote {
  /** Last exchange by picture. @type {Map<string, import("./server.js").Exchange>} */
  #exchanges = new Map();
  /** Uploads of this page by the id that was sent. @type {Map<string, Promise<void>>} */
  #uploads = new Map();

  /** @param {(activity: string, share: number | null) => void} report shows an upload's progress. */
  constructor(report) {
    this.report = report;
  }

  /** The last exchange about a picture. */
  exchangeOf(picture) {
    return this.#exchanges.get(picture?.id) ?? null;
  }

  /**
   * Upload a picture once, and let the server encode it for the models that will answer.
   *
   * @param {Picture} picture
   * @param {string} version SAM 2 model size; empty for the server's choice.
   * @param {() => boolean} isShown whether the picture is still the one that is shown.
   */
  upload(picture, version, isShown) {
    const id = picture.sentId;
    let upload = this.#uploads.get(id);
    if (upload) return upload;
    const report = (activity, share) => isShown() && this.report(activity, share);
    upload = (async () => {
      report("Uploading image…", 0);
      const body = { image: await picture.sent(), image_id: id };
      if (version) body.sam2_version_id = version;
      const path = version ? "sam2/embed_image" : "sam3/embed_image";
      try {
        const { exchange } = await request(path, body, (share) => {
          if (share < 1) report(`Uploading image… ${Math.floor(share * 100)} %`, share);
          else report("Encoding image…", null);
        });
        this.#exchanges.set(picture.id, exchange);
      } finally {
        report("", null);
      }
    })();
    this.#uploads.set(id, upload);
    upload.catch(() => {
      if (this.#uploads.get(id) === upload) this.#uploads.delete(id);
    });
    return upload;
  }

  /**
   * Send a request by image id.
   *
   * @param {Picture} picture
   * @param {string} path
   * @param {object} body without the image, in pixels of the picture.
   * @returns {Promise<Result[][]>} results by prompt.
   */
  async send(picture, path, body) {
    const sent = { image_id: picture.sentId, ...scaled(body, picture.scale) };
    let response;
    try {
      response = await request(path, sent);
    } catch (problem) {
      // The image is no longer cached: it was evicted, or the server was restarted.
      if (problem.status !== 404) throw problem;
      response = await request(path, { image: await picture.sent(), ...sent });
    }
    this.#exchanges.set(picture.id, response.exchange);
    const results = [];
    for (const { prompt_index: index, predictions } of response.body.prompt_results) {
      results[index] = resultsOf(picture, predictions, response.exchange.model);
    }
    return results;
  }

  /** The mask that a click would give; it is not kept. @returns {Promise<Mask | null>} */
  async preview(picture, version, point) {
    const body = scaled(previewRequest(point, version), picture.scale);
    const sent = { image_id: picture.sentId, ...body };
    const response = await request(objectPath(version), sent);
    const [result] = resultsOf(picture, response.body.predictions, "");
    return result ? Mask.of(result.rle) : null;
  }
}

/** Convert predictions of a response. @returns {Result[]} */
function resultsOf({ scale, width, height }, predictions, model) {
  return predictions.map(({ confidence, masks }) => {
    const rle = scale === 1 ? masks : enlarged(Mask.of(masks), 1 / scale, height, width).rle;
    return { score: confidence, rle, model };
  });
}

/** The body of a request with all coordinates multiplied. */
export function scaled(body, scale) {
  if (scale === 1) return body;
  const isPlace = (name) => ["x", "y", "width", "height", "x0", "y0", "x1", "y1"].includes(name);
  const walk = (value, name) => {
    if (Array.isArray(value)) return value.map((each) => walk(each));
    if (typeof value === "number") return isPlace(name) ? value * scale : value;
    if (typeof value !== "object" || value === null) return value;
    return Object.fromEntries(Object.entries(value).map(([key, each]) => [key, walk(each, key)]));
  };
  return { ...body, prompts: walk(body.prompts) };
}

/** A mask of a smaller copy at the size of the picture. */
export function enlarged(mask, factor, height, width) {
  const grow = (ring) => ring.map(([x, y]) => [x * factor, y * factor]);
  const parts = partsOf(mask).map(({ outer, holes }) => [grow(outer), ...holes.map(grow)]);
  return maskOf(parts, height, width);
}
