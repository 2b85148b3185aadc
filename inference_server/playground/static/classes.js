/**
 * Classes: what words and objects are labelled as. Each becomes a category of an exported data set.
 *
 * @typedef {{id: number, name: string, colour: string}} Class
 */

export const COLOURS = [
  ...["#8f7dff", "#19c3e6", "#ff4fa3", "#9be22d", "#ff9a1f", "#22d3a7"],
  ...["#f4485e", "#f2cf1d", "#5aa2ff", "#d37bff", "#4ade80", "#ff8a7a"],
];

/** Name of the class that is made for an object when there is none. */
const DEFAULT = "object";

const same = (a, b) => a.trim().toLowerCase() === b.trim().toLowerCase();

export class Classes {
  /** @type {Class[]} */
  list = [];
  /** Id of the class of the next object. @type {number | null} */
  active = null;
  /** Ids of classes that were merged into others. */
  #merged = {};
  /** Removed classes by id; undo may bring back prompts of them. */
  #removed = {};
  /** The highest id ever given: an id is not given again, so that prompts keep their class. */
  #lastId = 0;

  restore({ list = [], active = null, merged = {}, removed = {}, lastId = 0 } = {}) {
    [this.list, this.active, this.#merged, this.#removed] = [list, active, merged, removed];
    this.reserve([lastId, ...list.map((each) => each.id), ...Object.keys(merged).map(Number)]);
  }

  stored() {
    const { list, active } = this;
    return { list, active, merged: this.#merged, removed: this.#removed, lastId: this.#lastId };
  }

  /** Make new ids differ from those that stored prompts use. @param {number[]} ids */
  reserve(ids) {
    this.#lastId = Math.max(this.#lastId, ...ids);
  }

  /** The class of an id, followed through merges. @returns {Class} */
  of(id) {
    let found = id;
    while (found in this.#merged) found = this.#merged[found];
    return this.list.find((each) => each.id === found) ?? this.list[0] ?? { id: 0, name: DEFAULT, colour: COLOURS[0] };
  }

  named(name) {
    return this.list.find((each) => same(each.name, name));
  }

  /** The class of a name, which is made if there is none. @returns {Class} */
  add(name) {
    const known = this.named(name);
    if (known) return known;
    const taken = new Set(this.list.map((each) => each.colour));
    const colour = COLOURS.find((each) => !taken.has(each)) ?? COLOURS[this.list.length % COLOURS.length];
    this.#lastId += 1;
    const made = { id: this.#lastId, name: name.trim(), colour };
    this.list = [...this.list, made];
    this.active ??= made.id;
    return made;
  }

  /** The class of the next object. @returns {Class} */
  next() {
    return this.list.find((each) => each.id === this.active) ?? this.list[0] ?? this.add(DEFAULT);
  }

  /** Rename a class; the name of another one merges both. */
  rename(id, name) {
    const other = this.named(name);
    if (!name.trim()) return;
    if (!other || other.id === id) this.#change(id, { name: name.trim() });
    else {
      this.#merged[id] = other.id;
      this.#drop(id, other.id);
    }
  }

  recolour(id, colour) {
    this.#change(id, { colour });
  }

  remove(id) {
    const removed = this.list.find((each) => each.id === id);
    if (removed) this.#removed[id] = removed;
    this.#drop(id);
  }

  /** Bring back removed classes that prompts have again. @param {number[]} ids */
  revive(ids) {
    for (let id of ids) {
      while (id in this.#merged) id = this.#merged[id];
      const removed = this.#removed[id];
      if (!removed) continue;
      delete this.#removed[id];
      const other = this.named(removed.name);
      if (other) this.#merged[id] = other.id;
      else this.list = [...this.list, removed];
    }
  }

  #drop(id, next = null) {
    this.list = this.list.filter((each) => each.id !== id);
    if (this.active === id) this.active = next ?? this.list[0]?.id ?? null;
  }

  #change(id, values) {
    this.list = this.list.map((each) => (each.id === id ? { ...each, ...values } : each));
  }
}
