/** The mask under the pointer, before a click: one request at a time, for the latest position. */

/** Least movement between two requests, in CSS pixels. */
const STEP = 4;

export class Hover {
  #wanted = null;
  #last = null;
  #isAsking = false;

  /**
   * @param {import("./session.js").Session} session
   * @param {import("./stage.js").Stage} stage
   */
  constructor(session, stage) {
    this.session = session;
    this.stage = stage;
    stage.onhover = (event) => this.#moved(event);
  }

  #moved(event) {
    const { session, stage } = this;
    if (!session.project.settings.preview || stage.mode !== "include" || event.pointerType === "touch") return;
    const { clientX: x, clientY: y } = event;
    if (this.#last && Math.hypot(x - this.#last.x, y - this.#last.y) < STEP) return;
    this.#last = { x, y };
    this.#wanted = stage.pointAt(event);
    this.#ask();
  }

  async #ask() {
    if (this.#isAsking) return;
    this.#isAsking = true;
    const { session, stage } = this;
    try {
      while (this.#wanted) {
        const point = this.#wanted;
        this.#wanted = null;
        const { picture } = session;
        const mask = await session.preview({ ...point, positive: true });
        if (picture === session.picture && stage.isHovered) stage.preview(mask);
      }
    } catch {
      // A preview that fails, for example on a busy server, is no preview.
      stage.preview(null);
    } finally {
      this.#isAsking = false;
    }
  }
}
