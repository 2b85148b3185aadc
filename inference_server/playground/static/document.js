/**
 * The prompts, results and history of one picture.
 *
 * Results are kept by prompt, so undo, redo, the sliders and a repeated concept need no request.
 */

import { History } from "./history.js";
import { Mask, nonMaxSuppression } from "./masks.js";
import * as prompts from "./prompts.js";

/**
 * `selected` is the id of a prompt; `instance` is the key of one of its masks, or null; `rejected`
 * are ids of masks that the user removed.
 */
export const EMPTY = Object.freeze({ prompts: [], selected: null, instance: null, rejected: [] });

/** @typedef {import("./prompts.js").Prompt} Prompt */
/** @typedef {{score: number, rle: object, model: string}} Result */
/**
 * @typedef {object} Found a mask of a prompt.
 * @property {string} id
 * @property {Prompt} prompt
 * @property {import("./classes.js").Class} class
 * @property {number} score
 * @property {Mask} mask
 * @property {string} model
 */

export class Document {
  /** SAM 2 model size; empty for the server's choice. */
  version = "";
  #history = new History(EMPTY);
  /** Ids of hidden prompts and masks. */
  #hidden = new Set();
  /** Results by cache key. @type {Map<string, Result[]>} */
  #results = new Map();
  /** Latest results by prompt id, shown until those of the edited prompt arrive. */
  #latest = new Map();

  /**
   * @param {import("./classes.js").Classes} classes
   * @param {object} [stored] from `stored()`.
   */
  constructor(classes, stored = null) {
    this.classes = classes;
    if (!stored) return;
    this.version = stored.version;
    this.#history = History.of(stored.history);
    this.#hidden = new Set(stored.hidden);
    this.#results = new Map(stored.results);
    this.#latest = new Map(stored.latest);
    const all = this.#history.states.flatMap((state) => state.prompts);
    prompts.reserve(all);
    classes.reserve(all.map((each) => each.classId));
  }

  /** Plain data for the store. */
  stored() {
    const all = new Set(this.#history.states.flatMap((state) => state.prompts));
    const ids = new Set([...all].map((each) => each.id));
    const keys = new Set([...all].map((each) => prompts.identity(each)));
    return {
      version: this.version,
      history: this.#history.stored(),
      hidden: [...this.#hidden],
      results: [...this.#results].filter(([key]) => keys.has(key.slice(key.indexOf("{")))),
      latest: [...this.#latest].filter(([id]) => ids.has(id)),
    };
  }

  /** Begin with a state, which cannot be undone. */
  begin(state, version) {
    this.version = version;
    this.#history = new History(Object.freeze({ ...EMPTY, ...state }));
  }

  /** Show results for a prompt until its own arrive. @param {Result[]} results */
  showMeanwhile({ id }, results) {
    this.#latest.set(id, results);
  }

  get state() {
    return this.#history.present;
  }

  get prompts() {
    return this.state.prompts;
  }

  /** Ids of the classes of all prompts, hidden ones too. @returns {number[]} */
  get classIds() {
    return [...new Set(this.prompts.map((each) => each.classId))];
  }

  get concepts() {
    return this.prompts.filter(prompts.isConcept);
  }

  get objects() {
    return this.prompts.filter((each) => !prompts.isConcept(each));
  }

  /** The prompt that the next click or example refines. @returns {Prompt | undefined} */
  get selected() {
    return this.prompts.find((each) => each.id === this.state.selected);
  }

  get canUndo() {
    return this.#history.canUndo;
  }

  get canRedo() {
    return this.#history.canRedo;
  }

  undo() {
    this.#history.undo();
  }

  redo() {
    this.#history.redo();
  }

  /** Change the state as a step that can be undone. */
  edit(changes) {
    this.#history.push(Object.freeze({ ...this.state, ...changes }));
  }

  /** Change the selection, which is no step of its own. */
  select(selected, instance = null) {
    this.#history.present = { ...this.state, selected, instance };
  }

  isHidden({ id }) {
    return this.#hidden.has(id);
  }

  toggle({ id }) {
    if (!this.#hidden.delete(id)) this.#hidden.add(id);
  }

  /** Show everything. */
  showAll() {
    this.#hidden.clear();
  }

  /** Number of hidden masks of prompts that are shown. */
  get hiddenMasks() {
    const known = new Set(this.prompts.flatMap((each) => this.found(each).map(({ id }) => id)));
    return [...this.#hidden].filter((id) => known.has(id)).length;
  }

  #key(prompt) {
    return (prompts.isConcept(prompt) ? "" : this.version) + prompts.identity(prompt);
  }

  hasResults(prompt) {
    return Boolean(prompt.fixed) || this.#results.has(this.#key(prompt));
  }

  /** A function that stores the results of a prompt as it is now. */
  receiver(prompt) {
    const key = this.#key(prompt);
    return (results) => {
      this.#results.set(key, results);
      this.#latest.set(prompt.id, results);
    };
  }

  /** All results of a prompt that were not rejected. @returns {Found[]} */
  found(prompt) {
    const results = prompt.fixed
      ? [prompt.fixed]
      : (this.#results.get(this.#key(prompt)) ?? this.#latest.get(prompt.id) ?? []);
    const { rejected } = this.state;
    return results
      .map(({ score, rle, model }) => {
        const mask = Mask.of(rle);
        const id = `${prompt.id}/${mask.key}`;
        return { id, prompt, class: this.classes.of(prompt.classId), score, mask, model };
      })
      .filter(({ id }) => !rejected.includes(id));
  }

  /** The selected mask: an object's, or one instance of a concept. @returns {Found | undefined} */
  get picked() {
    const { selected } = this;
    const { instance } = this.state;
    if (!selected) return undefined;
    const found = this.found(selected);
    return selected.kind === "object" ? found[0] : found.find(({ mask }) => mask.key === instance);
  }

  /**
   * The masks that pass the visibility toggles and the filters.
   *
   * @param {{threshold: number, overlap: number}} filters of concepts.
   * @returns {Found[]}
   */
  shown({ threshold, overlap }) {
    const visible = (each) => !this.isHidden(each);
    const found = (list) => list.filter(visible).flatMap((each) => this.found(each));
    const concepts = found(this.concepts).filter((each) => each.score >= threshold);
    const kept = nonMaxSuppression(concepts, overlap);
    return [...kept, ...found(this.objects)].filter((each) => visible(each) && each.mask.area > 0);
  }
}
