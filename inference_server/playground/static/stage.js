/** The stage: the image with its masks; handles pointer and keyboard input. */

import { byId } from "./dom.js";
import { paintBox, paintCrosshair, paintMasks, paintPrompt, paintScores } from "./paint.js";

/** Minimum pointer movement of a drag, in CSS pixels. */
const DRAG = 6;
/** Step of the arrow keys, as a fraction of the image's longer side. */
const STEP = 1 / 40;
/** Minimum side of a box, in image pixels. */
const MIN_SIDE = 3;

const rounded = (value) => Math.round(value * 10) / 10;

export class Stage {
  #frame = byId("picture");
  #base = byId("base");
  #overlay = byId("overlay");
  #canvas = byId("stage");
  #press = null;
  #cross = null;
  #corner = null;

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
    const on = (name, listener) => this.#canvas.addEventListener(name, listener);
    on("pointerdown", (event) => this.#down(event));
    on("pointermove", (event) => this.#move(event));
    on("pointerup", (event) => this.#up(event));
    on("pointercancel", () => this.#reset());
    on("keydown", (event) => this.#key(event));
    on("blur", () => this.#reset());
  }

  /** @returns {"include" | "exclude" | "box" | "example"} */
  get mode() {
    return document.querySelector("input[name=mode]:checked").value;
  }

  /** Show another image. */
  open(picture) {
    byId("empty").hidden = true;
    this.#frame.hidden = false;
    this.#frame.style.setProperty("--ratio", String(picture.width / picture.height));
    this.#base.src = picture.image.src;
    this.#base.alt = picture.name;
    this.#canvas.setAttribute("aria-label", `Image ${picture.name}`);
    this.#reset();
    this.#cross = null;
    this.draw();
  }

  /** Canvas pixels per image pixel. */
  get #scale() {
    return this.#overlay.width / this.session.picture.width;
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
    const masks = this.#overlay.getContext("2d");
    masks.clearRect(0, 0, width, height);
    const found = session.shown();
    const pointed = session.highlighted;
    // A prompt without visible masks does not dim the others.
    const highlighted = found.some((each) => each.prompt.id === pointed?.id) ? pointed : null;
    paintMasks(masks, found, this.#scale, { unit, highlighted });
    this.#drawMarks(found, unit);
  }

  /** Redraw prompts and scores only, which is fast enough for pointer moves. */
  #drawMarks(found, unit) {
    const { session } = this;
    const scale = this.#scale;
    const marks = this.#canvas.getContext("2d");
    marks.clearRect(0, 0, this.#canvas.width, this.#canvas.height);
    for (const prompt of session.prompts) {
      if (session.isHidden(prompt)) continue;
      paintPrompt(marks, prompt, scale, { unit, isSelected: prompt.id === session.selected?.id });
    }
    paintScores(marks, found, scale, { unit });
    const box = this.#pressedBox() ?? this.#keyedBox();
    if (box) paintBox(marks, box, "#ffffff", scale, unit);
    if (this.#cross && document.activeElement === this.#canvas) {
      paintCrosshair(marks, this.#cross, scale, unit);
    }
  }

  #redraw() {
    if (this.session.picture) this.#drawMarks(this.session.shown(), devicePixelRatio || 1);
  }

  #modeChanged() {
    this.#canvas.dataset.mode = this.mode;
  }

  /** Position of an event in image pixels. */
  #at(event) {
    const { left, top, width, height } = this.#canvas.getBoundingClientRect();
    const { picture } = this.session;
    const inside = (value, most) => rounded(Math.min(Math.max(value, 0), most));
    return {
      x: inside(((event.clientX - left) / width) * picture.width, picture.width),
      y: inside(((event.clientY - top) / height) * picture.height, picture.height),
    };
  }

  #down(event) {
    if (event.button !== 0 || !event.isPrimary || !this.session.picture) return;
    // On touch screens, dragging scrolls the page unless the mode draws boxes.
    const draws = event.pointerType !== "touch" || ["box", "example"].includes(this.mode);
    this.#press = { from: event, at: this.#at(event), to: null, draws };
    this.#cross = null;
    if (draws) this.#canvas.setPointerCapture(event.pointerId);
  }

  #move(event) {
    const press = this.#press;
    if (!press || !event.isPrimary || !press.draws) return;
    const far = Math.hypot(event.clientX - press.from.clientX, event.clientY - press.from.clientY);
    if (press.to || far >= DRAG) {
      press.to = this.#at(event);
      this.#redraw();
    }
  }

  #up(event) {
    const press = this.#press;
    if (!press || !event.isPrimary) return;
    const box = this.#pressedBox();
    this.#reset();
    if (box) this.#box(box, event.shiftKey);
    else this.#click(press.at, event.shiftKey);
  }

  #reset() {
    this.#press = null;
    this.#corner = null;
    this.#redraw();
  }

  #pressedBox() {
    return this.#press?.to ? between(this.#press.at, this.#press.to) : null;
  }

  #keyedBox() {
    return this.#corner && this.#cross ? between(this.#corner, this.#cross) : null;
  }

  #click(point, negated) {
    const { session, mode } = this;
    if (mode === "example") {
      this.say("Drag a box around an example to find similar objects.");
      return;
    }
    const positive = (mode === "exclude") === negated;
    if (!positive && session.selected?.kind !== "object") {
      this.say("Nothing to exclude from; click on an object first.");
      return;
    }
    session.addPoint({ ...point, positive });
  }

  #box(box, negated) {
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
    this.#cross ??= { x: rounded(picture.width / 2), y: rounded(picture.height / 2) };
    const cross = this.#cross;
    if (move) {
      const step = event.shiftKey ? 1 : Math.max(picture.width, picture.height) * STEP;
      cross.x = rounded(Math.min(Math.max(cross.x + move[0] * step, 0), picture.width));
      cross.y = rounded(Math.min(Math.max(cross.y + move[1] * step, 0), picture.height));
      this.say(`Crosshair at ${Math.round(cross.x)}, ${Math.round(cross.y)}.`);
    } else if (event.key === "Enter" || event.key === " ") {
      const box = this.#keyedBox();
      this.#corner = null;
      if (box) this.#box(box, event.shiftKey);
      else this.#click({ ...cross }, event.shiftKey);
    } else if (event.key === "-") {
      this.#click({ ...cross }, this.mode !== "exclude");
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
    this.#redraw();
  }
}

/** The box between two corners. */
function between(a, b) {
  return {
    x0: Math.min(a.x, b.x),
    y0: Math.min(a.y, b.y),
    x1: Math.max(a.x, b.x),
    y1: Math.max(a.y, b.y),
    positive: true,
  };
}
