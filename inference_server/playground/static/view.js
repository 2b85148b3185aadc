/** The part of the picture that is visible: zoom and position. */

/** Most CSS pixels per image pixel. */
const MOST = 8;
/** Least maximum zoom, for small pictures. */
const LEAST = 4;

const clamp = (value, low, high) => Math.min(Math.max(value, low), high);

export class View {
  /** 1 shows the whole picture. */
  zoom = 1;
  /** Image position at the left and top of the frame. */
  left = 0;
  top = 0;

  /**
   * @param {HTMLElement} frame
   * @param {{width: number, height: number}} size of the picture.
   */
  constructor(frame, size) {
    this.frame = frame;
    this.size = size;
  }

  /** CSS pixels per image pixel. */
  get scale() {
    return (this.frame.clientWidth / this.size.width) * this.zoom;
  }

  get most() {
    return Math.max(LEAST, (MOST * this.size.width) / Math.max(1, this.frame.clientWidth));
  }

  /** The image position at a place of the frame, both axes given as 0 to 1. */
  at(across, down) {
    return {
      x: this.left + (across * this.size.width) / this.zoom,
      y: this.top + (down * this.size.height) / this.zoom,
    };
  }

  /** Multiply the zoom, so that the image position at a place of the frame stays there. */
  zoomAt(across, down, factor) {
    const fixed = this.at(across, down);
    this.zoom = clamp(this.zoom * factor, 1, this.most);
    this.#moveTo(
      fixed.x - (across * this.size.width) / this.zoom,
      fixed.y - (down * this.size.height) / this.zoom,
    );
  }

  /** Move the picture by CSS pixels. */
  pan(right, down) {
    this.#moveTo(this.left - right / this.scale, this.top - down / this.scale);
  }

  /** Move the picture so that a position is visible. */
  reveal({ x, y }) {
    const [width, height] = [this.size.width / this.zoom, this.size.height / this.zoom];
    const isOut = x < this.left || y < this.top || x > this.left + width || y > this.top + height;
    if (isOut) this.#moveTo(x - width / 2, y - height / 2);
  }

  fit() {
    [this.zoom, this.left, this.top] = [1, 0, 0];
  }

  #moveTo(left, top) {
    const { width, height } = this.size;
    this.left = clamp(left, 0, width - width / this.zoom);
    this.top = clamp(top, 0, height - height / this.zoom);
  }
}
