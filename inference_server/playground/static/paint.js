/** Draw masks, labels, points and boxes at any scale. */

const FAINT = 0.3;
/** Width of the line around a selected mask, beyond its outline, in CSS pixels. */
const SELECTION = 2.5;
/** Canvas pixels per image pixel from which the pixels of masks have sharp edges. */
const SHARP = 3;
const FONT = '600 12px system-ui, sans-serif';

/** Rasterised masks by look; rasterising costs more than drawing. */
const rasters = new WeakMap();
const MAX_RASTERS = 3;
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

function rasterOf(mask, colour, region, step) {
  const cached = rasters.get(mask) ?? new Map();
  rasters.set(mask, cached);
  const look = `${colour} ${region} ${step}`;
  let canvas = cached.get(look);
  if (!canvas) {
    canvas = mask.raster(channels(colour), region, step);
    if (cached.size >= MAX_RASTERS) cached.delete(cached.keys().next().value);
    cached.set(look, canvas);
  }
  return canvas;
}

/** The part of a mask's box that is visible, in whole image pixels; null if nothing is. */
function visible(mask, context, scale, [left, top], pad) {
  const [x, y, width, height] = mask.box;
  const { width: across, height: down } = context.canvas;
  const x0 = Math.max(x, Math.floor((left - pad) / scale));
  const y0 = Math.max(y, Math.floor((top - pad) / scale));
  const x1 = Math.min(x + width, Math.ceil((left + across + pad) / scale));
  const y1 = Math.min(y + height, Math.ceil((top + down + pad) / scale));
  return x0 < x1 && y0 < y1 ? [x0, y0, x1 - x0, y1 - y0] : null;
}

/**
 * Draw masks, each filled and outlined.
 *
 * @param {CanvasRenderingContext2D} context
 * @param {import("./document.js").Found[]} found
 * @param {number} scale canvas pixels per image pixel.
 * @param {object} options
 * @param {number} [options.unit] canvas pixels per CSS pixel.
 * @param {[number, number]} [options.origin] position of the canvas in the scaled image.
 * @param {object | null} [options.highlighted] masks of all other prompts are drawn faintly.
 * @param {string} [options.selected] id of the selected mask.
 * @param {number} [options.opacity] of the fill, 0 to 1.
 * @param {number} [options.outline] width in CSS pixels.
 */
export function paintMasks(
  context,
  found,
  scale,
  { unit = 1, origin = [0, 0], highlighted = null, selected = "", opacity = 0.5, outline = 2 } = {},
) {
  const pad = Math.ceil((outline + SELECTION) * unit) + 2;
  const step = Math.max(1, Math.floor(1 / scale));
  context.save();
  context.translate(-origin[0], -origin[1]);
  context.imageSmoothingEnabled = scale < SHARP;
  for (const { id, prompt, class: { colour }, mask } of found) {
    const region = visible(mask, context, scale, origin, pad);
    if (!region) continue;
    const raster = rasterOf(mask, colour, region, step);
    const [x, y] = [region[0] * scale, region[1] * scale];
    const place = [x, y, raster.width * step * scale, raster.height * step * scale];
    const weight = highlighted !== null && highlighted.id !== prompt.id ? FAINT : 1;
    context.globalAlpha = weight * opacity;
    context.drawImage(raster, ...place);
    context.globalAlpha = weight === 1 ? 1 : 2 * FAINT;
    if (id === selected) {
      const white = rasterOf(mask, "#ffffff", region, step);
      paintOutline(context, white, place, (outline + SELECTION) * unit, pad);
    }
    if (outline) paintOutline(context, raster, place, Math.max(1, outline * unit), pad);
  }
  context.restore();
}

/** Draw the mask shifted in 16 directions, then cut out the mask itself. */
function paintOutline(context, raster, [x, y, w, h], width, pad) {
  const [left, top] = [Math.floor(x) - pad, Math.floor(y) - pad];
  scratch.width = Math.ceil(w) + 2 * pad + 1;
  scratch.height = Math.ceil(h) + 2 * pad + 1;
  const line = scratch.getContext("2d");
  line.imageSmoothingEnabled = context.imageSmoothingEnabled;
  for (let step = 0; step < 16; step += 1) {
    const angle = (step * Math.PI) / 8;
    const [dx, dy] = [Math.cos(angle) * width, Math.sin(angle) * width];
    line.drawImage(raster, x - left + dx, y - top + dy, w, h);
  }
  line.globalCompositeOperation = "destination-out";
  line.drawImage(raster, x - left, y - top, w, h);
  context.drawImage(scratch, left, top);
}

/** Draw class and score next to each mask. */
export function paintLabels(context, found, scale, { unit = 1, origin = [0, 0] } = {}) {
  context.save();
  context.font = FONT.replace("12px", `${12 * unit}px`);
  context.textBaseline = "middle";
  for (const { class: { name, colour }, mask, score } of found) {
    if (!visible(mask, context, scale, origin, 0)) continue;
    const text = `${name} ${score.toFixed(2)}`;
    const width = context.measureText(text).width + 10 * unit;
    const height = 18 * unit;
    const limit = [context.canvas.width - width - unit, context.canvas.height - height - unit];
    const [left, top] = [mask.box[0] * scale - origin[0], mask.box[1] * scale - origin[1]];
    const x = Math.max(unit, Math.min(left, limit[0]));
    const y = Math.max(unit, Math.min(top - height - 3 * unit, limit[1]));
    context.fillStyle = colour;
    context.beginPath();
    context.roundRect(x, y, width, height, 5 * unit);
    context.fill();
    context.fillStyle = isLight(colour) ? "#101216" : "#ffffff";
    context.fillText(text, x + 5 * unit, y + height / 2 + unit / 2);
  }
  context.restore();
}

/** Draw the points and boxes of a prompt. */
export function paintPrompt(context, prompt, colour, scale, { unit = 1, isSelected = false } = {}) {
  context.save();
  context.globalAlpha = isSelected ? 1 : 0.6;
  // The box of a known mask is not what the user drew.
  const own = prompt.box && !prompt.fixed ? [prompt.box] : [];
  for (const box of prompt.boxes ?? own) paintBox(context, box, colour, scale, unit);
  for (const point of prompt.points ?? []) {
    paintPoint(context, point, colour, scale, unit * (isSelected ? 1 : 0.75));
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
