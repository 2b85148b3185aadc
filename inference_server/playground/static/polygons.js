/**
 * Polygons of masks along the edges of pixels, their simplification, and masks of polygons.
 *
 * @typedef {[number, number][]} Ring a closed outline; the last point joins the first.
 * @typedef {{outer: Ring, holes: Ring[]}} Part a connected part of a mask.
 */

import { Mask } from "./masks.js";

/** Parts by mask, because tracing costs more than simplification. */
const traced = new WeakMap();

/** Twice the signed area: positive for outer rings, negative for holes. */
function doubleArea(ring) {
  let sum = 0;
  ring.forEach(([x, y], i) => {
    const [u, v] = ring[(i + 1) % ring.length];
    sum += x * v - u * y;
  });
  return sum;
}

/** [start, stop) rows of each column that a mask reaches; one list of numbers per column. */
function columnsOf(mask) {
  const { height, spans } = mask;
  const columns = new Map();
  for (let i = 0; i < spans.length; i += 2) {
    for (let at = spans[i]; at < spans[i + 1]; ) {
      const column = Math.floor(at / height);
      const stop = Math.min(spans[i + 1], (column + 1) * height);
      const rows = columns.get(column) ?? [];
      rows.push(at - column * height, stop - column * height);
      columns.set(column, rows);
      at = stop;
    }
  }
  return columns;
}

/** Rows that are in `a` and not in `b`, both lists of [start, stop) pairs. */
function without(a, b) {
  const rest = [];
  for (let i = 0, j = 0; i < a.length; i += 2) {
    let [start, stop] = [a[i], a[i + 1]];
    while (j < b.length && b[j + 1] <= start) j += 2;
    for (let k = j; k < b.length && b[k] < stop; k += 2) {
      if (b[k] > start) rest.push(start, b[k]);
      start = Math.max(start, b[k + 1]);
    }
    if (start < stop) rest.push(start, stop);
  }
  return rest;
}

/** All outlines of a mask, with the mask on the right of each edge. @returns {Ring[]} */
function ringsOf(mask) {
  const columns = columnsOf(mask);
  const side = mask.height + 1;
  /** End points by start point; two where parts touch at a corner. */
  const edges = new Map();
  const edge = (x0, y0, x1, y1) => {
    const from = x0 * side + y0;
    const ends = edges.get(from);
    if (ends) ends.push(x1 * side + y1);
    else edges.set(from, [x1 * side + y1]);
  };
  const [left, , width] = mask.box;
  for (let x = left; x <= left + width; x += 1) {
    const [before, rows] = [columns.get(x - 1) ?? [], columns.get(x) ?? []];
    for (let i = 0; i < rows.length; i += 2) {
      edge(x, rows[i], x + 1, rows[i]);
      edge(x + 1, rows[i + 1], x, rows[i + 1]);
    }
    const ends = without(before, rows);
    for (let i = 0; i < ends.length; i += 2) edge(x, ends[i], x, ends[i + 1]);
    const begins = without(rows, before);
    for (let i = 0; i < begins.length; i += 2) edge(x, begins[i + 1], x, begins[i]);
  }
  const point = (at) => [Math.floor(at / side), at % side];
  const rings = [];
  for (const start of edges.keys()) {
    while (edges.get(start)?.length) {
      const ring = [];
      let [at, direction] = [start, null];
      do {
        const [x, y] = point(at);
        const ends = edges.get(at);
        const next = ends.length === 1 ? 0 : rightTurn(direction, [x, y], ends.map(point));
        const [end] = ends.splice(next, 1);
        const [u, v] = point(end);
        const now = [Math.sign(u - x), Math.sign(v - y)];
        if (direction?.[0] !== now[0] || direction?.[1] !== now[1]) ring.push([x, y]);
        direction = now;
        at = end;
      } while (at !== start);
      rings.push(ring.filter((each, i) => !isStraight(ring.at(i - 1), each, ring[(i + 1) % ring.length])));
    }
  }
  return rings;
}

/** Index of the end that turns right, so that parts which touch at a corner stay apart. */
function rightTurn(direction, [x, y], ends) {
  if (!direction) return 0;
  const turns = ends.map(([u, v]) => direction[0] * Math.sign(v - y) - direction[1] * Math.sign(u - x));
  return turns.indexOf(Math.max(...turns));
}

const isStraight = ([ax, ay], [bx, by], [cx, cy]) => (bx - ax) * (cy - by) === (by - ay) * (cx - bx);

/** Whether a point is in a ring, by the even-odd rule. */
function isInside(ring, x, y) {
  let inside = false;
  ring.forEach(([ax, ay], i) => {
    const [bx, by] = ring[(i + 1) % ring.length];
    if (ay > y !== by > y && x < ax + ((y - ay) / (by - ay)) * (bx - ax)) inside = !inside;
  });
  return inside;
}

/** The parts of a mask with their holes. @returns {Part[]} */
export function partsOf(mask) {
  let parts = traced.get(mask);
  if (parts) return parts;
  const rings = ringsOf(mask).map((ring) => ({ ring, area: doubleArea(ring) }));
  const outers = rings.filter((each) => each.area > 0).sort((a, b) => a.area - b.area);
  parts = outers.map(({ ring }) => ({ outer: ring, holes: [] }));
  for (const { ring } of rings.filter((each) => each.area < 0)) {
    // The pixel at the hole's first corner is in the hole.
    const [x, y] = ring.reduce((a, b) => (b[0] < a[0] || (b[0] === a[0] && b[1] < a[1]) ? b : a));
    parts.find((part) => isInside(part.outer, x + 0.5, y + 0.5))?.holes.push(ring);
  }
  traced.set(mask, parts);
  return parts;
}

/** Distance of a point from a segment. */
function distance([x, y], [ax, ay], [bx, by]) {
  const [dx, dy] = [bx - ax, by - ay];
  const length = dx * dx + dy * dy;
  const t = length ? Math.min(1, Math.max(0, ((x - ax) * dx + (y - ay) * dy) / length)) : 0;
  return Math.hypot(x - ax - t * dx, y - ay - t * dy);
}

/**
 * Simplify a ring by the algorithm of Douglas and Peucker.
 *
 * @param {Ring} ring
 * @param {number} epsilon maximum distance of a removed point from the outline, in pixels.
 */
export function simplified(ring, epsilon) {
  if (!epsilon || ring.length < 5) return ring;
  let far = 0;
  ring.forEach(([x, y], i) => {
    const most = Math.hypot(ring[far][0] - ring[0][0], ring[far][1] - ring[0][1]);
    if (Math.hypot(x - ring[0][0], y - ring[0][1]) > most) far = i;
  });
  const keep = new Set([0, far]);
  const stack = [[0, far], [far, ring.length]];
  while (stack.length) {
    const [from, to] = stack.pop();
    const last = ring[to % ring.length];
    let [worst, at] = [epsilon, -1];
    for (let i = from + 1; i < to; i += 1) {
      const off = distance(ring[i], ring[from], last);
      if (off > worst) [worst, at] = [off, i];
    }
    if (at < 0) continue;
    keep.add(at);
    stack.push([from, at], [at, to]);
  }
  const kept = ring.filter((_, i) => keep.has(i));
  return kept.length > 2 ? kept : ring;
}

/** Join a second ring to a first one by a line that is walked in both directions. */
function joined(first, second) {
  let [best, at, to] = [Infinity, 0, 0];
  // A sample of long rings is enough: any line keeps the area.
  const [a, b] = [first, second].map((ring) => Math.ceil(ring.length / 1000));
  for (let i = 0; i < first.length; i += a) {
    for (let j = 0; j < second.length; j += b) {
      const gap = Math.hypot(first[i][0] - second[j][0], first[i][1] - second[j][1]);
      if (gap < best) [best, at, to] = [gap, i, j];
    }
  }
  const walk = [...second.slice(to), ...second.slice(0, to + 1)];
  return [...first.slice(0, at + 1), ...walk, ...first.slice(at)];
}

/** The polygons of a mask, one per part; holes are joined to their outline. @returns {Ring[]} */
export function polygonsOf(mask, epsilon) {
  return partsOf(mask).map(({ outer, holes }) =>
    holes.reduce((ring, hole) => joined(ring, simplified(hole, epsilon)), simplified(outer, epsilon)),
  );
}

/** One polygon for a whole mask: its parts are joined by lines. @returns {Ring} */
export const polygonOf = (mask, epsilon) => polygonsOf(mask, epsilon).reduce(joined);

/**
 * The mask of polygons: the pixels whose centres they cover.
 *
 * @param {Ring[][]} polygons each is a list of rings, filled by the even-odd rule; all are united.
 */
export function maskOf(polygons, height, width) {
  const columns = new Map();
  for (const rings of polygons) {
    const crossings = new Map();
    for (const ring of rings) {
      ring.forEach(([ax, ay], i) => {
        const [bx, by] = ring[(i + 1) % ring.length];
        const first = Math.max(0, Math.ceil(Math.min(ax, bx) - 0.5));
        const last = Math.min(width, Math.ceil(Math.max(ax, bx) - 0.5));
        for (let x = first; x < last; x += 1) {
          const y = ay + ((x + 0.5 - ax) / (bx - ax)) * (by - ay);
          if (crossings.has(x)) crossings.get(x).push(y);
          else crossings.set(x, [y]);
        }
      });
    }
    for (const [x, ys] of crossings) {
      ys.sort((a, b) => a - b);
      const rows = columns.get(x) ?? [];
      for (let i = 0; i + 1 < ys.length; i += 2) {
        const [from, to] = [ys[i], ys[i + 1]].map((y) => Math.min(height, Math.max(0, Math.ceil(y - 0.5))));
        if (from < to) rows.push([from, to]);
      }
      columns.set(x, rows);
    }
  }
  const spans = [];
  for (const x of [...columns.keys()].sort((a, b) => a - b)) {
    for (const [from, to] of columns.get(x).sort((a, b) => a[0] - b[0])) {
      const [start, stop] = [x * height + from, x * height + to];
      if (spans.length && start <= spans.at(-1)) spans[spans.length - 1] = Math.max(spans.at(-1), stop);
      else spans.push(start, stop);
    }
  }
  return Mask.fromSpans(spans, height, width);
}
