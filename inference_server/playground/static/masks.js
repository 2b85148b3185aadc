/**
 * Masks as COCO's run lengths: reading, comparing, and making pixels of them.
 *
 * Runs go down the columns, and begin with one of zeros. A mask is read once; its overlap with
 * others is counted on the runs, so that only masks that are shown become pixels.
 */

/** Pixels of a mask's own picture; larger ones are drawn from every second, third … pixel. */
const MOST_PIXELS = 4_000_000;

export class Mask {
  /** @param {{size: [number, number], counts: string}} rle as the server writes it. */
  constructor(rle) {
    this.rle = rle;
    [this.height, this.width] = rle.size;
    /** Pairs of first and last + 1 in column-major order. */
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
    /** x, y, width and height of its box; all 0 if it is empty. */
    this.box = this.area ? [x0, y0, x1 - x0, y1 - y0] : [0, 0, 0, 0];
  }

  /** Shared pixels over the pixels of both together. */
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
   * Its box as a picture of one colour, clear where the mask is not.
   *
   * @param {[number, number, number]} colour red, green, blue.
   */
  picture([red, green, blue]) {
    const [x0, y0, width, height] = this.box;
    const step = Math.max(1, Math.ceil(Math.sqrt((width * height) / MOST_PIXELS)));
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

/** The ones of a COCO string: six bits a character, five of them the number's, least first. */
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
    // From the fourth on, a run is told as its difference from the last but one.
    if (runs.length > 2) value += runs[runs.length - 2];
    if (runs.length % 2 && value) spans.push(at, at + value);
    runs.push(value);
    at += value;
  }
  return spans;
}

/**
 * Non-maximum suppression as the server does it: from the best on, a mask stays unless it overlaps
 * one that stays by more than this.
 *
 * @template {{score: number, mask: Mask}} T
 * @param {T[]} found
 * @param {number} overlap most IoU; from 1 on all stay.
 * @returns {T[]} those that stay, in their order.
 */
export function suppressed(found, overlap) {
  if (overlap >= 1) return found;
  const kept = [];
  for (const each of found.toSorted((a, b) => b.score - a.score)) {
    if (kept.every((better) => better.mask.iou(each.mask) <= overlap)) kept.push(each);
  }
  const stays = new Set(kept);
  return found.filter((each) => stays.has(each));
}
