/** Mouse, pen and fingers on the stage: clicks, boxes, pan and zoom. */

import { between } from "./prompts.js";

/** Minimum pointer movement of a drag, in CSS pixels. */
const DRAG = 6;
/** Zoom per pixel of the wheel; pinches on a touchpad arrive as small steps with Ctrl. */
const WHEEL = 1.0015;
const PINCH = 1.01;

const rounded = (value) => Math.round(value * 10) / 10;

export class Pointer {
  /** The press of a click or a box. */
  #press = null;
  /** Last position while the picture is dragged. */
  #drag = null;
  /** Fingers on the stage by id. @type {Map<number, PointerEvent>} */
  #fingers = new Map();
  #isSpaceDown = false;

  /**
   * @param {HTMLCanvasElement} canvas
   * @param {import("./stage.js").Stage} stage
   */
  constructor(canvas, stage) {
    this.canvas = canvas;
    this.stage = stage;
    const on = (name, listener, options) => canvas.addEventListener(name, listener, options);
    on("pointerdown", (event) => this.#down(event));
    on("pointermove", (event) => this.#move(event));
    on("pointerup", (event) => this.#up(event));
    on("pointercancel", (event) => this.#cancel(event));
    on("pointerleave", () => stage.preview(null));
    on("wheel", (event) => this.#wheel(event), { passive: false });
    // With two fingers, the page neither scrolls nor zooms.
    const pinch = (event) => event.touches.length > 1 && event.preventDefault();
    on("touchstart", pinch, { passive: false });
    on("touchmove", pinch, { passive: false });
    // Chromium scrolls with the middle button otherwise.
    on("mousedown", (event) => event.button === 1 && event.preventDefault());
    addEventListener("keydown", (event) => this.#space(event, true));
    addEventListener("keyup", (event) => this.#space(event, false));
  }

  /** The box that is being drawn, or null. */
  get box() {
    return this.#press?.to ? between(this.#press.at, this.#press.to) : null;
  }

  /** Forget a press and a drag. */
  forget() {
    this.#press = null;
    this.#drag = null;
    this.canvas.classList.remove("panning");
  }

  #space(event, isDown) {
    if (event.key !== " ") return;
    const isFree = event.target === document.body || event.target === this.canvas;
    if (isDown && (!isFree || !this.stage.session.picture)) return;
    if (isDown) event.preventDefault();
    this.#isSpaceDown = isDown;
    this.canvas.classList.toggle("panning", isDown);
  }

  /** Place of an event in the frame, both axes as 0 to 1. */
  #place({ clientX, clientY }) {
    const { left, top, width, height } = this.canvas.getBoundingClientRect();
    return [(clientX - left) / width, (clientY - top) / height];
  }

  /** Position of an event in image pixels. */
  at(event) {
    const { view, session: { picture } } = this.stage;
    const { x, y } = view.at(...this.#place(event));
    const inside = (value, most) => rounded(Math.min(Math.max(value, 0), most));
    return { x: inside(x, picture.width), y: inside(y, picture.height) };
  }

  #down(event) {
    const { stage } = this;
    if (!stage.session.picture) return;
    if (event.pointerType === "touch") this.#fingers.set(event.pointerId, event);
    if (this.#fingers.size === 2) {
      this.forget();
      stage.redraw();
      return;
    }
    if (event.button === 1 || (event.button === 0 && this.#isSpaceDown)) {
      this.#drag = event;
      this.canvas.setPointerCapture(event.pointerId);
      return;
    }
    if (event.button !== 0 || !event.isPrimary) return;
    // On touch screens, dragging scrolls the page or the picture unless the mode draws boxes.
    const isBoxing = ["box", "example"].includes(stage.mode);
    const draws = isBoxing || (event.pointerType !== "touch" && stage.mode !== "select");
    this.#press = { from: event, at: this.at(event), to: null, draws };
    stage.hideCross();
    if (draws || stage.view.zoom > 1) this.canvas.setPointerCapture(event.pointerId);
  }

  #move(event) {
    if (this.#fingers.has(event.pointerId)) {
      if (this.#fingers.size === 2) {
        this.#pinch(event);
        return;
      }
      this.#fingers.set(event.pointerId, event);
    }
    if (this.#drag) {
      this.#pan(this.#drag, event);
      this.#drag = event;
      return;
    }
    const press = this.#press;
    if (!press) {
      if (this.stage.session.picture) this.stage.onhover?.(event);
      return;
    }
    if (!event.isPrimary) return;
    const far = Math.hypot(event.clientX - press.from.clientX, event.clientY - press.from.clientY);
    if (press.draws && (press.to || far >= DRAG)) {
      press.to = this.at(event);
      this.stage.redraw();
    } else if (!press.draws && far >= DRAG && this.stage.view.zoom > 1) {
      // A drag that draws nothing moves the picture.
      this.#press = null;
      this.#drag = event;
      this.#pan(press.from, event);
    }
  }

  #pan(from, to) {
    this.stage.view.pan(to.clientX - from.clientX, to.clientY - from.clientY);
    this.stage.moved();
  }

  #pinch(event) {
    const [a, b] = this.#fingers.values();
    const other = a.pointerId === event.pointerId ? b : a;
    const before = this.#fingers.get(event.pointerId);
    const length = (one) => Math.hypot(one.clientX - other.clientX, one.clientY - other.clientY);
    const middle = (one) => ({
      clientX: (one.clientX + other.clientX) / 2,
      clientY: (one.clientY + other.clientY) / 2,
    });
    const factor = length(event) / Math.max(1, length(before));
    this.#fingers.set(event.pointerId, event);
    this.stage.view.zoomAt(...this.#place(middle(event)), factor);
    this.#pan(middle(before), middle(event));
  }

  #up(event) {
    const wasPinching = this.#fingers.size > 1;
    this.#fingers.delete(event.pointerId);
    const press = this.#press;
    if (this.#drag || wasPinching || !press || !event.isPrimary) {
      this.forget();
      this.canvas.classList.toggle("panning", this.#isSpaceDown);
      return;
    }
    const { box } = this;
    this.stage.reset();
    if (box) this.stage.drawBox(box, event.shiftKey);
    else this.stage.click(press.at, { negated: event.shiftKey, picks: event.altKey });
  }

  #cancel(event) {
    this.#fingers.delete(event.pointerId);
    this.stage.reset();
  }

  #wheel(event) {
    if (!this.stage.session.picture) return;
    event.preventDefault();
    // Lines and pages, which some browsers report instead of pixels.
    const pixels = event.deltaY * [1, 16, 400][event.deltaMode];
    const base = event.ctrlKey ? PINCH : WHEEL;
    this.stage.view.zoomAt(...this.#place(event), base ** -pixels);
    this.stage.moved();
  }
}
