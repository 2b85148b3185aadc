/**
 * Masks in COCO's compressed RLE: parse, write, compare and rasterise.
 *
 * Runs are column-major and start with zeros. IoU is computed on the runs, so only visible masks are
 * rasterised, and only as finely as the screen shows them.
 */

/** Masks by their RLE, so that each is parsed once. */
const parsed = new WeakMap();

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

  /** The mask of an RLE; the same object for the same RLE. */
  static of(rle) {
    let mask = parsed.get(rle);
    if (!mask) {
      mask = new Mask(rle);
      parsed.set(rle, mask);
    }
    return mask;
  }

  /** @param {number[]} spans ascending [start, stop) pairs of column-major indices. */
  static fromSpans(spans, height, width) {
    const rle = { size: [height, width], counts: countsOf(spans, height * width) };
    return Mask.of(rle);
  }

  /** Text that identifies the mask among those of a prompt. */
  get key() {
    return [...this.box, this.area].join(",");
  }

  /** Whether the mask covers a position in image pixels. */
  contains(x, y) {
    const [column, row] = [Math.floor(x), Math.floor(y)];
    if (column < 0 || row < 0 || column >= this.width || row >= this.height) return false;
    const at = column * this.height + row;
    const first = this.#first(at);
    return first < this.spans.length && this.spans[first] <= at;
  }

  /** Index of the first span that ends after a pixel index. */
  #first(at) {
    let [low, high] = [0, this.spans.length / 2];
    while (low < high) {
      const middle = (low + high) >> 1;
      if (this.spans[2 * middle + 1] > at) high = middle;
      else low = middle + 1;
    }
    return 2 * low;
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
   * Rasterise a region: the colour on the mask, transparent elsewhere.
   *
   * @param {[number, number, number]} colour red, green and blue, 0 to 255.
   * @param {[number, number, number, number]} region [x, y, width, height] in whole image pixels.
   * @param {number} step image pixels per canvas pixel, a whole number.
   * @returns {HTMLCanvasElement}
   */
  raster([red, green, blue], [x0, y0, width, height] = this.box, step = 1) {
    const canvas = document.createElement("canvas");
    canvas.width = Math.max(1, Math.ceil(width / step));
    canvas.height = Math.max(1, Math.ceil(height / step));
    const context = canvas.getContext("2d");
    const image = context.createImageData(canvas.width, canvas.height);
    const pixels = new Uint32Array(image.data.buffer);
    const paint = new Uint32Array(new Uint8ClampedArray([red, green, blue, 255]).buffer)[0];
    const end = (x0 + width) * this.height;
    for (let i = this.#first(x0 * this.height); i < this.spans.length; i += 2) {
      if (this.spans[i] >= end) break;
      const last = Math.min(this.spans[i + 1], end);
      for (let at = Math.max(this.spans[i], x0 * this.height); at < last; ) {
        const column = Math.floor(at / this.height);
        const stop = Math.min(last, (column + 1) * this.height);
        const x = (column - x0) / step;
        if (Number.isInteger(x)) {
          const top = Math.max(0, at - column * this.height - y0);
          const bottom = Math.min(height, stop - column * this.height - y0);
          for (let y = Math.ceil(top / step); y * step < bottom; y += 1) {
            pixels[y * canvas.width + x] = paint;
          }
        }
        at = stop;
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

/** Write COCO counts; the opposite of `spansOf`. */
function countsOf(spans, pixels) {
  const runs = [];
  let at = 0;
  for (const edge of spans) {
    runs.push(edge - at);
    at = edge;
  }
  if (at < pixels) runs.push(pixels - at);
  let counts = "";
  runs.forEach((run, index) => {
    let value = index > 2 ? run - runs[index - 2] : run;
    for (let more = true; more; ) {
      let bits = value & 31;
      value >>= 5;
      more = bits & 16 ? value !== -1 : value !== 0;
      if (more) bits |= 32;
      counts += String.fromCharCode(bits + 48);
    }
  });
  return counts;
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
