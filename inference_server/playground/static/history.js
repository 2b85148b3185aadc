/** Undo and redo over immutable states. */

const MAX_STATES = 200;

export class History {
  #past = [];
  #future = [];

  /** @param {any} present */
  constructor(present) {
    this.present = present;
  }

  /** Restore a history from `stored()`. */
  static of({ past, present, future }) {
    const history = new History(present);
    [history.#past, history.#future] = [past, future];
    return history;
  }

  stored() {
    return { past: this.#past, present: this.present, future: this.#future };
  }

  get states() {
    return [...this.#past, this.present, ...this.#future];
  }

  get canUndo() {
    return this.#past.length > 0;
  }

  get canRedo() {
    return this.#future.length > 0;
  }

  /** @param {any} next the new present state. */
  push(next) {
    this.#past = [...this.#past, this.present].slice(-MAX_STATES);
    this.#future = [];
    this.present = next;
  }

  undo() {
    if (!this.canUndo) return;
    this.#future.push(this.present);
    this.present = this.#past.pop();
  }

  redo() {
    if (!this.canRedo) return;
    this.#past.push(this.present);
    this.present = this.#future.pop();
  }
}
