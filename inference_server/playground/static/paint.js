/** Painting: masks, their scores, clicks and boxes, at any scale. */

const FILL = 0.5;
const FAINT = 0.15;
const OUTLINE = 2;
const FONT = '600 12px system-ui, sans-serif';

/** Pictures of masks by mask and colour: making them costs more than painting them. */
const pictures = new WeakMap();
const scratch = document.createElement("canvas");

/** `#rrggbb` as numbers. */
export function channels(colour) {
  return [1, 3, 5].map((at) => Number.parseInt(colour.slice(at, at + 2), 16));
}

/** Whether dark text is easier to read on a colour. */
const isLight = (colour) => {
  const [red, green, blue] = channels(colour);
  return 0.299 * red + 0.587 * green + 0.114 * blue > 140;
};

function pictureOf(mask, colour) {
  let known = pictures.get(mask);
  if (known?.colour !== colour) {
    known = { colour, canvas: mask.picture(channels(colour)) };
    pictures.set(mask, known);
  }
  return known.canvas;
}

/**
 * Paint masks, each filled and with an outline around it.
 *
 * @param {CanvasRenderingContext2D} context
 * @param {import("./session.js").Found[]} found
 * @param {number} scale canvas pixels a pixel of the picture.
 * @param {{unit?: number, highlighted?: object | null}} options `unit` is the canvas pixels of one
 *   on the screen; with a prompt highlighted, the others are faint.
 */
export function paintMasks(context, found, scale, { unit = 1, highlighted = null } = {}) {
  const width = Math.max(1, OUTLINE * unit);
  for (const { prompt, mask } of found) {
    const [x, y, w, h] = mask.box.map((value) => value * scale);
    const picture = pictureOf(mask, prompt.colour);
    const isFaint = highlighted !== null && highlighted.id !== prompt.id;
    context.globalAlpha = isFaint ? FAINT : FILL;
    context.drawImage(picture, x, y, w, h);
    // The mask moved around, less itself, is a line around it.
    const pad = Math.ceil(width) + 1;
    const [left, top] = [Math.floor(x) - pad, Math.floor(y) - pad];
    scratch.width = Math.ceil(w) + 2 * pad + 1;
    scratch.height = Math.ceil(h) + 2 * pad + 1;
    const line = scratch.getContext("2d");
    for (let step = 0; step < 16; step += 1) {
      const angle = (step * Math.PI) / 8;
      const [dx, dy] = [Math.cos(angle) * width, Math.sin(angle) * width];
      line.drawImage(picture, x - left + dx, y - top + dy, w, h);
    }
    line.globalCompositeOperation = "destination-out";
    line.drawImage(picture, x - left, y - top, w, h);
    context.globalAlpha = isFaint ? FAINT * 2 : 1;
    context.drawImage(scratch, left, top);
  }
  context.globalAlpha = 1;
}

/** Write each mask's score beside it. */
export function paintScores(context, found, scale, { unit = 1 } = {}) {
  context.save();
  context.font = FONT.replace("12px", `${12 * unit}px`);
  context.textBaseline = "middle";
  for (const { prompt, mask, score } of found) {
    const text = score.toFixed(2);
    const width = context.measureText(text).width + 10 * unit;
    const height = 18 * unit;
    const most = [context.canvas.width - width - unit, context.canvas.height - height - unit];
    const x = Math.max(unit, Math.min(mask.box[0] * scale, most[0]));
    const y = Math.max(unit, Math.min(mask.box[1] * scale - height - 3 * unit, most[1]));
    context.fillStyle = prompt.colour;
    context.beginPath();
    context.roundRect(x, y, width, height, 5 * unit);
    context.fill();
    context.fillStyle = isLight(prompt.colour) ? "#101216" : "#ffffff";
    context.fillText(text, x + 5 * unit, y + height / 2 + unit / 2);
  }
  context.restore();
}

/** Draw a prompt's clicks and boxes. */
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

/** A box, with a darker line under it so that it is seen on any picture. */
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

/** The cross that arrow keys move. */
export function paintCross(context, { x, y }, scale, unit) {
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
