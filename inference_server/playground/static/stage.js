/** The stage: the image with its masks; draws them and handles the keyboard. */

import { byId } from "./dom.js";
import { paintBox, paintCrosshair, paintLabels, paintMasks, paintPrompt } from "./paint.js";
import { Pointer } from "./pointer.js";
import { between } from "./prompts.js";
import { View } from "./view.js";

/** Step of the arrow keys, as a fraction of the visible part's longer side. */
const STEP = 1 / 40;
/** Minimum side of a box, in image pixels. */
const MIN_SIDE = 3;
/** Factor of a zoom step. */
const ZOOM = 1.5;
/** CSS pixels per image pixel from which the pixels of the image are shown as squares. */
const SHARP = 2;

const rounded = (value) => Math.round(value * 10) / 10;

export class Stage {
  #frame = byId("picture");
  #base = byId("base");
  #overlay = byId("overlay");
  #canvas = byId("stage");
  #cross = null;
  #corner = null;
  /** @type {View} */
  #view = new View(this.#frame, { width: 1, height: 1 });
  #pointer;
  /** The mask under the pointer that a click would give. */
  #preview = null;
  /** Called when the pointer moves over the image. @type {((event: PointerEvent) => void) | null} */
  onhover = null;

  /**
   * @param {import("./session.js").Session} session
   * @param {(text: string) => void} say shows a status message.
   */
  constructor(session, say) {
    this.session = session;
    this.say = say;
    new ResizeObserver(() => this.draw()).observe(this.#frame);
    for (const radio of document.querySelectorAll("input[name=mode]")) {
      radio.addEventListener("change", () => this.#modeChanged());
    }
    this.#modeChanged();
    this.#pointer = new Pointer(this.#canvas, this);
    this.#canvas.addEventListener("keydown", (event) => this.#key(event));
    this.#canvas.addEventListener("blur", () => this.reset());
    byId("zoom-in").addEventListener("click", () => this.zoom(ZOOM));
    byId("zoom-out").addEventListener("click", () => this.zoom(1 / ZOOM));
    byId("zoom-fit").addEventListener("click", () => this.fit());
  }

  /** @returns {"include" | "exclude" | "box" | "example" | "select"} */
  get mode() {
    return document.querySelector("input[name=mode]:checked").value;
  }

  set mode(name) {
    document.querySelector(`input[name=mode][value=${name}]`).checked = true;
    this.#modeChanged();
  }

  get view() {
    return this.#view;
  }

  /** Show another image; without one, show how to open one. */
  open(picture) {
    byId("empty").hidden = Boolean(picture);
    this.#frame.hidden = !picture;
    this.#cross = null;
    this.#preview = null;
    if (!picture) {
      this.#base.removeAttribute("src");
      return;
    }
    this.#frame.style.setProperty("--ratio", String(picture.width / picture.height));
    this.#base.src = picture.image.src;
    this.#base.alt = picture.name;
    this.#canvas.setAttribute("aria-label", `Image ${picture.name}`);
    this.#view = new View(this.#frame, picture);
    this.reset();
    this.moved();
  }

  /** The view has changed. */
  moved() {
    const { zoom, left, top, size, scale } = this.#view;
    const { style } = this.#base;
    style.width = style.height = `${100 * zoom}%`;
    style.left = `${(-100 * zoom * left) / size.width}%`;
    style.top = `${(-100 * zoom * top) / size.height}%`;
    style.imageRendering = scale >= SHARP && zoom > 1 ? "pixelated" : "auto";
    this.#canvas.dataset.zoomed = String(zoom > 1);
    byId("zoom-level").textContent = `${Math.round(100 * scale)} %`;
    byId("zoom-out").disabled = byId("zoom-fit").disabled = zoom <= 1;
    byId("zoom-in").disabled = !this.session.picture || zoom >= this.#view.most;
    this.draw();
  }

  zoom(factor) {
    if (!this.session.picture) return;
    const { left, top, size, zoom } = this.#view;
    const place = (value, from, side) => Math.min(1, Math.max(0, ((value - from) * zoom) / side));
    const cross = this.#cross ?? this.#view.at(0.5, 0.5);
    this.#view.zoomAt(place(cross.x, left, size.width), place(cross.y, top, size.height), factor);
    this.moved();
  }

  fit() {
    this.#view.fit();
    this.moved();
  }

  /** Canvas pixels per image pixel. */
  get #scale() {
    return (this.#overlay.width / this.session.picture.width) * this.#view.zoom;
  }

  get #origin() {
    return [this.#view.left * this.#scale, this.#view.top * this.#scale];
  }

  draw() {
    if (!this.session.picture) return;
    const unit = devicePixelRatio || 1;
    const width = Math.max(1, Math.round(this.#frame.clientWidth * unit));
    const height = Math.max(1, Math.round(this.#frame.clientHeight * unit));
    for (const canvas of [this.#overlay, this.#canvas]) {
      if (canvas.width !== width || canvas.height !== height) {
        [canvas.width, canvas.height] = [width, height];
      }
    }
    const { session } = this;
    const { opacity, outline } = session.project.settings;
    const masks = this.#overlay.getContext("2d");
    masks.clearRect(0, 0, width, height);
    const found = session.shown();
    const pointed = session.highlighted;
    // A prompt without visible masks does not dim the others.
    const highlighted = found.some((each) => each.prompt.id === pointed?.id) ? pointed : null;
    const selected = session.document.picked?.id;
    const look = { unit, origin: this.#origin, highlighted, selected, opacity, outline };
    paintMasks(masks, found, this.#scale, look);
    this.#drawMarks(found, unit);
  }

  /** Redraw prompts and labels only, which is fast enough for pointer moves. */
  #drawMarks(found, unit) {
    const { session } = this;
    const scale = this.#scale;
    const origin = this.#origin;
    const marks = this.#canvas.getContext("2d");
    marks.clearRect(0, 0, this.#canvas.width, this.#canvas.height);
    if (this.#preview) {
      const shown = [{ id: "", prompt: {}, class: { colour: "#ffffff" }, mask: this.#preview }];
      paintMasks(marks, shown, scale, { unit, origin, opacity: 0.35, outline: 1.5 });
    }
    marks.save();
    marks.translate(-origin[0], -origin[1]);
    for (const prompt of session.prompts) {
      if (session.document.isHidden(prompt)) continue;
      const { colour } = session.project.classes.of(prompt.classId);
      const isSelected = prompt.id === session.selected?.id;
      paintPrompt(marks, prompt, colour, scale, { unit, isSelected });
    }
    marks.restore();
    if (session.project.settings.labels) paintLabels(marks, found, scale, { unit, origin });
    marks.save();
    marks.translate(-origin[0], -origin[1]);
    const box = this.#pointer.box ?? this.#keyedBox();
    if (box) paintBox(marks, box, "#ffffff", scale, unit);
    if (this.#cross && document.activeElement === this.#canvas) {
      paintCrosshair(marks, this.#cross, scale, unit);
    }
    marks.restore();
  }

  redraw() {
    if (this.session.picture) this.#drawMarks(this.session.shown(), devicePixelRatio || 1);
  }

  /** Position of a pointer event in image pixels. */
  pointAt(event) {
    return this.#pointer.at(event);
  }

  /** Whether the pointer is over the image. */
  get isHovered() {
    return this.#canvas.matches(":hover");
  }

  /** Show a mask until the next one. @param {import("./masks.js").Mask | null} mask */
  preview(mask) {
    if (this.#preview === mask) return;
    this.#preview = mask;
    this.redraw();
  }

  #modeChanged() {
    this.#canvas.dataset.mode = this.mode;
    this.preview(null);
  }

  /** Forget what was begun. */
  reset() {
    this.#pointer?.forget();
    this.#corner = null;
    this.redraw();
  }

  /** The pointer takes over from the keyboard. */
  hideCross() {
    this.#cross = null;
  }

  #keyedBox() {
    return this.#corner && this.#cross ? between(this.#corner, this.#cross) : null;
  }

  click(point, { negated = false, picks = false } = {}) {
    const { session, mode } = this;
    this.preview(null);
    if (mode === "select" || picks) {
      const found = session.pick(point);
      this.say(found ? described(found) : "No mask here.");
      return;
    }
    if (mode === "example") {
      this.say("Drag a box around an example to find similar objects.");
      return;
    }
    const positive = (mode === "exclude") === negated;
    if (!positive && session.selected?.kind !== "object" && !session.document.picked) {
      this.say("Nothing to exclude from; click on an object first.");
      return;
    }
    session.addPoint({ ...point, positive });
  }

  drawBox(box, negated) {
    if (box.x1 - box.x0 < MIN_SIDE || box.y1 - box.y0 < MIN_SIDE) {
      this.say("The box is too small; drag a larger one.");
    } else if (this.mode !== "example") {
      this.session.addBox(box);
    } else if (negated && this.session.selected?.kind !== "example") {
      this.say("No example yet; drag a box around one first.");
    } else {
      this.session.addExample({ ...box, positive: !negated });
    }
  }

  #key(event) {
    const { picture } = this.session;
    if (!picture || event.ctrlKey || event.metaKey || event.altKey) return;
    const moves = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
    const move = moves[event.key];
    const middle = this.#view.at(0.5, 0.5);
    this.#cross ??= { x: rounded(middle.x), y: rounded(middle.y) };
    const cross = this.#cross;
    if (move) {
      const longer = Math.max(picture.width, picture.height) / this.#view.zoom;
      const step = event.shiftKey ? 1 : longer * STEP;
      cross.x = rounded(Math.min(Math.max(cross.x + move[0] * step, 0), picture.width));
      cross.y = rounded(Math.min(Math.max(cross.y + move[1] * step, 0), picture.height));
      this.#view.reveal(cross);
      this.moved();
      this.say(`Crosshair at ${Math.round(cross.x)}, ${Math.round(cross.y)}.`);
    } else if (event.key === "Enter") {
      const box = this.#keyedBox();
      this.#corner = null;
      if (box) this.drawBox(box, event.shiftKey);
      else this.click({ ...cross }, { negated: event.shiftKey });
    } else if (event.key === "b" || event.key === "B") {
      this.#corner = { ...cross };
      this.say("First corner set. Move the crosshair to the opposite corner and press Enter.");
    } else if (event.key === "n" || event.key === "N" || event.key === "Escape") {
      this.#corner = null;
      this.session.select(null);
      this.say("The next click starts a new object.");
    } else {
      return;
    }
    event.preventDefault();
    this.redraw();
  }
}

/** @param {import("./document.js").Found} found */
export const described = (found) => `Selected: ${found.class.name}, score ${found.score.toFixed(2)}.`;
