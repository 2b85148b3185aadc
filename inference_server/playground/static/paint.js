/** Draw masks, scores, points and boxes at any scale. */

const FILL = 0.5;
const FAINT = 0.15;
const OUTLINE = 2;
const FONT = '600 12px system-ui, sans-serif';

/** Cache of rasterised masks; rasterising costs more than drawing. */
const rasters = new WeakMap();
const scratch = document.createElement("canvas");

/** Convert `#rrggbb` to [red, green, blue]. */
export function channels(colour) {
  return [1, 3, 5].map((at) => Number.parseInt(colour.slice(at, at + 2), 16));
}

/** Whether dark text has the better contrast on a colour. */
const isLight = (colour) => {
  const [red, green, blue] = channels(colour);
  return 0.299 * red + 0.587 * green + 0.114 * blue > 140;
};

function rasterOf(mask, colour) {
  let cached = rasters.get(mask);
  if (cached?.colour !== colour) {
    cached = { colour, canvas: mask.raster(channels(colour)) };
    rasters.set(mask, cached);
  }
  return cached.canvas;
}

/**
 * Draw masks, each filled and outlined.
 *
 * @param {CanvasRenderingContext2D} context
 * @param {import("./session.js").Found[]} found
 * @param {number} scale canvas pixels per image pixel.
 * @param {{unit?: number, highlighted?: object | null}} options `unit` is canvas pixels per
 *   CSS pixel; masks of all prompts but the highlighted one are drawn faintly.
 */
export function paintMasks(context, found, scale, { unit = 1, highlighted = null } = {}) {
  const width = Math.max(1, OUTLINE * unit);
  for (const { prompt, mask } of found) {
    const [x, y, w, h] = mask.box.map((value) => value * scale);
    const raster = rasterOf(mask, prompt.colour);
    const isFaint = highlighted !== null && highlighted.id !== prompt.id;
    context.globalAlpha = isFaint ? FAINT : FILL;
    context.drawImage(raster, x, y, w, h);
    // Outline: draw the mask shifted in 16 directions, then cut out the mask itself.
    const pad = Math.ceil(width) + 1;
    const [left, top] = [Math.floor(x) - pad, Math.floor(y) - pad];
    scratch.width = Math.ceil(w) + 2 * pad + 1;
    scratch.height = Math.ceil(h) + 2 * pad + 1;
    const line = scratch.getContext("2d");
    for (let step = 0; step < 16; step += 1) {
      const angle = (step * Math.PI) / 8;
      const [dx, dy] = [Math.cos(angle) * width, Math.sin(angle) * width];
      line.drawImage(raster, x - left + dx, y - top + dy, w, h);
    }
    line.globalCompositeOperation = "destination-out";
    line.drawImage(raster, x - left, y - top, w, h);
    context.globalAlpha = isFaint ? FAINT * 2 : 1;
    context.drawImage(scratch, left, top);
  }
  context.globalAlpha = 1;
}

/** Draw the score next to each mask. */
export function paintScores(context, found, scale, { unit = 1 } = {}) {
  context.save();
  context.font = FONT.replace("12px", `${12 * unit}px`);
  context.textBaseline = "middle";
  for (const { prompt, mask, score } of found) {
    const text = score.toFixed(2);
    const width = context.measureText(text).width + 10 * unit;
    const height = 18 * unit;
    const limit = [context.canvas.width - width - unit, context.canvas.height - height - unit];
    const x = Math.max(unit, Math.min(mask.box[0] * scale, limit[0]));
    const y = Math.max(unit, Math.min(mask.box[1] * scale - height - 3 * unit, limit[1]));
    context.fillStyle = prompt.colour;
    context.beginPath();
    context.roundRect(x, y, width, height, 5 * unit);
    context.fill();
    context.fillStyle = isLight(prompt.colour) ? "#101216" : "#ffffff";
    context.fillText(text, x + 5 * unit, y + height / 2 + unit / 2);
  }
  context.restore();
}

/** Draw the points and boxes of a prompt. */
export function paintPrompt(context, prompt, scale, { unit = 1, isSelected = false } = {}) {
  context.save();
  context.globalAlpha = isSelected ? 1 : 0.6;
  const boxes = prompt.boxes ?? (prompt.box ? [prompt.box] : []);
  for (const box of boxes) paintBox(context, box, prompt.colour, scale, unit);
  for (const point of prompt.points ?? []) {
    paintPoint(context, point, prompt.colour, scale, unit * (isSelected ? 1 : 0.75));
  }
  context.restore();
}

/** Draw a dashed box over a darker line, which keeps it visible on any image. */
export function paintBox(context, box, colour, scale, unit) {
  const sides = [box.x0, box.y0, box.x1 - box.x0, box.y1 - box.y0].map((side) => side * scale);
  context.setLineDash([]);
  context.lineWidth = 4 * unit;
  context.strokeStyle = "rgb(0 0 0 / 55%)";
  context.strokeRect(...sides);
  context.setLineDash(box.positive === false ? [3 * unit, 5 * unit] : [9 * unit, 4 * unit]);
  context.lineWidth = 2 * unit;
  context.strokeStyle = colour;
  context.strokeRect(...sides);
}

function paintPoint(context, { x, y, positive }, colour, scale, unit) {
  const [cx, cy] = [x * scale, y * scale];
  context.beginPath();
  context.arc(cx, cy, 8 * unit, 0, 2 * Math.PI);
  context.fillStyle = positive ? colour : "#101216";
  context.fill();
  context.lineWidth = 2 * unit;
  context.strokeStyle = "#ffffff";
  context.stroke();
  const arm = 4 * unit;
  context.beginPath();
  context.moveTo(cx - arm, cy);
  context.lineTo(cx + arm, cy);
  if (positive) {
    context.moveTo(cx, cy - arm);
    context.lineTo(cx, cy + arm);
  }
  context.strokeStyle = positive && isLight(colour) ? "#101216" : "#ffffff";
  context.stroke();
}

/** Draw the crosshair of the keyboard. */
export function paintCrosshair(context, { x, y }, scale, unit) {
  const [cx, cy] = [x * scale, y * scale];
  for (const [width, colour] of [[4, "rgb(0 0 0 / 60%)"], [1.5, "#ffffff"]]) {
    context.lineWidth = width * unit;
    context.strokeStyle = colour;
    context.beginPath();
    for (const [dx, dy] of [[1, 0], [-1, 0], [0, 1], [0, -1]]) {
      context.moveTo(cx + dx * 4 * unit, cy + dy * 4 * unit);
      context.lineTo(cx + dx * 16 * unit, cy + dy * 16 * unit);
    }
    context.stroke();
  }
}
