/**
 * Masks in COCO's compressed RLE: parse, compare and rasterise.
 *
 * Runs are column-major and start with zeros. IoU is computed on the runs, so only visible masks are
 * rasterised.
 */

/** Maximum pixels of a rasterised mask; larger masks are subsampled. */
const MAX_PIXELS = 4_000_000;

export class Mask {
  /** @param {{size: [number, number], counts: string}} rle COCO RLE; `size` is [height, width]. */
  constructor(rle) {
    this.rle = rle;
    [this.height, this.width] = rle.size;
    /** Flat list of [start, stop) pairs of column-major pixel indices. */
    this.spans = spansOf(rle.counts);
    this.area = 0;
    let [x0, y0, x1, y1] = [this.width, this.height, 0, 0];
    for (let i = 0; i < this.spans.length; i += 2) {
      const [start, stop] = [this.spans[i], this.spans[i + 1]];
      this.area += stop - start;
      const [left, right] = [Math.floor(start / this.height), Math.floor((stop - 1) / this.height)];
      x0 = Math.min(x0, left);
      x1 = Math.max(x1, right + 1);
      if (left === right) {
        y0 = Math.min(y0, start % this.height);
        y1 = Math.max(y1, ((stop - 1) % this.height) + 1);
      } else {
        [y0, y1] = [0, this.height];
      }
    }
    /** Bounding box [x, y, width, height]; zeros for an empty mask. */
    this.box = this.area ? [x0, y0, x1 - x0, y1 - y0] : [0, 0, 0, 0];
  }

  /** Intersection over union with another mask. */
  iou(other) {
    const [ax, ay, aw, ah] = this.box;
    const [bx, by, bw, bh] = other.box;
    if (ax >= bx + bw || bx >= ax + aw || ay >= by + bh || by >= ay + ah) return 0;
    const [a, b] = [this.spans, other.spans];
    let shared = 0;
    for (let i = 0, j = 0; i < a.length && j < b.length; ) {
      shared += Math.max(0, Math.min(a[i + 1], b[j + 1]) - Math.max(a[i], b[j]));
      if (a[i + 1] < b[j + 1]) i += 2;
      else j += 2;
    }
    return shared / (this.area + other.area - shared);
  }

  /**
   * Rasterise the bounding box: the colour on the mask, transparent elsewhere.
   *
   * @param {[number, number, number]} colour red, green and blue, 0 to 255.
   * @returns {HTMLCanvasElement}
   */
  raster([red, green, blue]) {
    const [x0, y0, width, height] = this.box;
    const step = Math.max(1, Math.ceil(Math.sqrt((width * height) / MAX_PIXELS)));
    const canvas = document.createElement("canvas");
    canvas.width = Math.max(1, Math.ceil(width / step));
    canvas.height = Math.max(1, Math.ceil(height / step));
    const context = canvas.getContext("2d");
    const image = context.createImageData(canvas.width, canvas.height);
    const pixels = new Uint32Array(image.data.buffer);
    const paint = new Uint32Array(new Uint8ClampedArray([red, green, blue, 255]).buffer)[0];
    for (let i = 0; i < this.spans.length; i += 2) {
      for (let at = this.spans[i]; at < this.spans[i + 1]; ) {
        const column = Math.floor(at / this.height);
        const end = Math.min(this.spans[i + 1], (column + 1) * this.height);
        const x = (column - x0) / step;
        if (Number.isInteger(x)) {
          const top = at - column * this.height - y0;
          const bottom = end - column * this.height - y0;
          for (let y = Math.ceil(top / step); y * step < bottom; y += 1) {
            pixels[y * canvas.width + x] = paint;
          }
        }
        at = end;
      }
    }
    context.putImageData(image, 0, 0);
    return canvas;
  }
}

/** Parse COCO counts: six bits per character, five of them data, least significant group first. */
function spansOf(counts) {
  const runs = [];
  const spans = [];
  let at = 0;
  for (let i = 0; i < counts.length; ) {
    let value = 0;
    let shift = 0;
    let bits;
    do {
      bits = counts.charCodeAt(i) - 48;
      i += 1;
      value |= (bits & 31) << shift;
      shift += 5;
    } while (bits & 32);
    if (bits & 16 && shift < 32) value |= -1 << shift;
    // From the fourth run on, COCO stores the difference to the run two before.
    if (runs.length > 2) value += runs[runs.length - 2];
    if (runs.length % 2 && value) spans.push(at, at + value);
    runs.push(value);
    at += value;
  }
  return spans;
}

/**
 * Greedy non-maximum suppression, the same as on the server.
 *
 * @template {{score: number, mask: Mask}} T
 * @param {T[]} found
 * @param {number} overlap maximum IoU of two masks; 1 keeps all.
 * @returns {T[]} the masks that are kept, in input order.
 */
export function nonMaxSuppression(found, overlap) {
  if (overlap >= 1) return found;
  const kept = [];
  for (const each of found.toSorted((a, b) => b.score - a.score)) {
    if (kept.every((better) => better.mask.iou(each.mask) <= overlap)) kept.push(each);
  }
  return found.filter((each) => kept.includes(each));
}
