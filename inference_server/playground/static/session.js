/**
 * The state of the page: the image, the prompts and their results.
 *
 * Results are cached by prompt, so undo, redo, the sliders and a repeated concept need no request.
 */

import { History } from "./history.js";
import { Mask, nonMaxSuppression } from "./masks.js";
import * as prompts from "./prompts.js";
import { request } from "./server.js";

/** Minimum score in requests; the slider filters the results. */
const MIN_SCORE = 0.05;

/** Maximum concepts per request: the server's default of `INFERENCE_MAX_PROMPTS`. */
const MAX_CONCEPTS = 16;

const EMPTY = Object.freeze({ prompts: Object.freeze([]), selected: null });

/** @typedef {import("./prompts.js").Prompt} Prompt */
/** @typedef {{prompt: Prompt, score: number, mask: Mask, model: string}} Found */

export class Session extends EventTarget {
  /** @type {import("./picture.js").Picture | null} */
  picture = null;
  threshold = 0.5;
  overlap = 1;
  /** SAM 2 model size; empty for the server's choice. */
  version = "";
  /** The last request. @type {import("./server.js").Exchange | null} */
  exchange = null;
  /** The current error. @type {import("./problem.js").Problem | null} */
  problem = null;
  /** The prompt under the pointer in a list. */
  highlighted = null;

  #history = new History(EMPTY);
  #hidden = new Set();
  /** Results by cache key. @type {Map<string, {score: number, mask: Mask, model: string}[]>} */
  #results = new Map();
  /** Last results by prompt id, shown until those of the edited prompt arrive. */
  #previousResults = new Map();
  #uploaded = null;
  #running = new Set();
  /** Status message of the running requests. */
  #activity = "";
  /** The image that is being opened. @type {Promise<import("./picture.js").Picture> | null} */
  #opening = null;
  /** Incremented per image; responses for an earlier image are dropped. */
  #generation = 0;

  /** Status message of the current activity; empty when idle. */
  get activity() {
    return this.#opening ? "Opening image…" : this.#activity;
  }

  get prompts() {
    return this.#history.present.prompts;
  }

  get concepts() {
    return this.prompts.filter(prompts.isConcept);
  }

  get objects() {
    return this.prompts.filter((each) => !prompts.isConcept(each));
  }

  /** The prompt that the next click or example refines. @returns {Prompt | undefined} */
  get selected() {
    return this.prompts.find((each) => each.id === this.#history.present.selected);
  }

  get canUndo() {
    return this.#history.canUndo;
  }

  get canRedo() {
    return this.#history.canRedo;
  }

  isHidden(prompt) {
    return this.#hidden.has(prompt.id);
  }

  hasResults(prompt) {
    return this.#results.has(this.#key(prompt));
  }

  /** Whether the results of a prompt are pending. */
  isWaiting(prompt) {
    return this.picture !== null && this.problem === null && !this.hasResults(prompt);
  }

  /** All results of a prompt with at least `MIN_SCORE`. @returns {Found[]} */
  found(prompt) {
    const current = this.#results.get(this.#key(prompt));
    const found = current ?? this.#previousResults.get(prompt.id) ?? [];
    return found.map((each) => ({ prompt, ...each }));
  }

  /** The masks that pass the visibility toggles and the sliders. @returns {Found[]} */
  shown() {
    const visible = (each) => !this.isHidden(each);
    const concepts = this.concepts
      .filter(visible)
      .flatMap((each) => this.found(each))
      .filter((each) => each.score >= this.threshold);
    const objects = this.objects.filter(visible).flatMap((each) => this.found(each));
    const kept = nonMaxSuppression(concepts, this.overlap);
    return [...kept, ...objects].filter((each) => each.mask.area > 0);
  }

  /**
   * Switch to another image once it is loaded. If several are loading, the last one chosen wins.
   *
   * Concepts are kept; clicks and boxes are removed.
   *
   * @param {Promise<import("./picture.js").Picture>} opening
   * @returns the image, or null if it failed to load or another one was chosen.
   */
  async open(opening) {
    this.#opening = opening;
    this.#changed();
    let picture = null;
    let problem = null;
    try {
      picture = await opening;
    } catch (reason) {
      problem = reason;
    }
    if (this.#opening !== opening) {
      picture?.close();
      return null;
    }
    this.#opening = null;
    if (picture) this.#show(picture);
    else this.setProblem(problem);
    return picture;
  }

  #show(picture) {
    this.picture?.close();
    this.picture = picture;
    this.#generation += 1;
    this.#uploaded = null;
    this.#results.clear();
    this.#previousResults.clear();
    this.#running.clear();
    this.exchange = null;
    this.problem = null;
    this.#activity = "";
    const kept = this.prompts.filter((each) => each.kind === "concept");
    this.#history = new History({ prompts: kept, selected: null });
    this.#changed();
    // Encode the image before the first prompt, to hide the latency of the encoder.
    this.#run("upload", () => this.#upload(this.#generation));
    this.#requestPending();
  }

  addConcepts(texts) {
    let list = this.prompts;
    for (const text of texts) {
      if (!list.some((each) => each.text?.toLowerCase() === text.toLowerCase())) {
        list = [...list, prompts.conceptOf(text, list)];
      }
    }
    if (list !== this.prompts) this.#edit({ prompts: list, selected: null });
  }

  /** Add an exemplar box to the selected example prompt, or to a new one. */
  addExample(box) {
    const { selected } = this;
    if (selected?.kind === "example") {
      this.#replace({ ...selected, boxes: [...selected.boxes, box] });
    } else {
      this.#add(prompts.exampleOf(box, this.prompts));
    }
  }

  /** Add a point to the selected object, or to a new one. */
  addPoint(point) {
    const { selected } = this;
    if (selected?.kind === "object") {
      this.#replace({ ...selected, points: [...selected.points, point] });
    } else {
      this.#add(prompts.objectOf([point], null, this.prompts));
    }
  }

  /** Add a new object with a box. */
  addBox(box) {
    this.#add(prompts.objectOf([], box, this.prompts));
  }

  remove(prompt) {
    const list = this.prompts.filter((each) => each.id !== prompt.id);
    const selected = this.#history.present.selected;
    this.#edit({ prompts: list, selected: selected === prompt.id ? null : selected });
  }

  /** @param {Prompt | null} prompt */
  select(prompt) {
    this.#history.present = { ...this.#history.present, selected: prompt?.id ?? null };
    this.#changed();
  }

  clear() {
    if (this.prompts.length) this.#edit(EMPTY);
  }

  undo() {
    this.#history.undo();
    this.#changed();
    this.#requestPending();
  }

  redo() {
    this.#history.redo();
    this.#changed();
    this.#requestPending();
  }

  toggle(prompt) {
    if (!this.#hidden.delete(prompt.id)) this.#hidden.add(prompt.id);
    this.#changed();
  }

  /** Highlight the masks of a prompt. Dispatches `highlight` instead of `change`. */
  highlight(prompt) {
    this.highlighted = prompt;
    this.dispatchEvent(new Event("highlight"));
  }

  /** Set `threshold`, `overlap` or `version`. */
  set(values) {
    Object.assign(this, values);
    this.#changed();
    this.#requestPending();
  }

  /** Set or clear the current error. */
  setProblem(problem) {
    this.problem = problem;
    this.#changed();
  }

  /** Clear the error and repeat the failed requests. */
  retry() {
    this.problem = null;
    this.#changed();
    if (this.picture && !this.#uploaded) this.#run("upload", () => this.#upload(this.#generation));
    this.#requestPending();
  }

  #key(prompt) {
    return (prompts.isConcept(prompt) ? "" : this.version) + prompts.identity(prompt);
  }

  #add(prompt) {
    this.#edit({ prompts: [...this.prompts, prompt], selected: prompt.id });
  }

  #replace(prompt) {
    this.#previousResults.set(prompt.id, this.#results.get(this.#key(this.selected)) ?? []);
    const list = this.prompts.map((each) => (each.id === prompt.id ? Object.freeze(prompt) : each));
    this.#edit({ prompts: list, selected: prompt.id });
  }

  #edit(state) {
    this.#history.push(state);
    this.problem = null;
    this.#changed();
    this.#requestPending();
  }

  #changed() {
    this.dispatchEvent(new Event("change"));
  }

  /** Request all pending results; objects and concepts run in parallel. */
  #requestPending() {
    if (!this.picture || this.problem) return;
    this.#run("objects", () => this.#requestObjects(this.#generation));
    this.#run("concepts", () => this.#requestConcepts(this.#generation));
  }

  /** Run at most one loop of a kind; a running loop picks up new prompts itself. */
  async #run(kind, work) {
    if (this.#running.has(kind)) return;
    const generation = this.#generation;
    this.#running.add(kind);
    try {
      await work();
    } catch (problem) {
      if (generation === this.#generation) this.problem = problem;
    } finally {
      if (generation === this.#generation) {
        this.#running.delete(kind);
        if (!this.#running.size) this.#activity = "";
        this.#changed();
      }
    }
  }

  async #requestConcepts(generation) {
    for (;;) {
      const pending = this.concepts.filter((each) => this.isWaiting(each)).slice(0, MAX_CONCEPTS);
      if (!pending.length || generation !== this.#generation) return;
      this.#report(`Finding ${pending.map((each) => each.name).join(", ")}…`);
      const body = prompts.conceptRequest(pending, MIN_SCORE);
      const keys = pending.map((each) => this.#key(each));
      const response = await this.#send(generation, "sam3/concept_segment", body);
      if (!response) return;
      response.prompt_results.forEach(({ prompt_index: index, predictions }) => {
        this.#results.set(keys[index], predictions.map(toResult(response.model)));
      });
      this.#changed();
    }
  }

  async #requestObjects(generation) {
    for (;;) {
      const pending = this.objects.find((each) => this.isWaiting(each));
      if (!pending || generation !== this.#generation) return;
      this.#report(`Segmenting ${pending.name}…`);
      const key = this.#key(pending);
      const body = prompts.objectRequest(pending, this.version);
      const response = await this.#send(generation, prompts.objectPath(this.version), body);
      if (!response) return;
      this.#results.set(key, response.predictions.map(toResult(response.model)));
      this.#changed();
    }
  }

  /** Upload the image once and let the server encode it for the models that will answer. */
  #upload(generation) {
    this.#uploaded ??= (async () => {
      const { picture } = this;
      this.#report("Encoding image…");
      const body = { image: await picture.sent(), image_id: picture.id };
      if (this.version) body.sam2_version_id = this.version;
      const path = this.version ? "sam2/embed_image" : "sam3/embed_image";
      const { exchange } = await request(path, body);
      if (generation === this.#generation) this.exchange = exchange;
    })();
    const uploaded = this.#uploaded;
    uploaded.catch(() => {
      if (this.#uploaded === uploaded) this.#uploaded = null;
    });
    return uploaded;
  }

  /**
   * Send a request by image id.
   *
   * @returns the response body, and in it the `model`; null if the image has changed.
   */
  async #send(generation, path, body) {
    const { picture } = this;
    await this.#upload(generation);
    if (generation !== this.#generation) return null;
    let response;
    try {
      response = await request(path, { image_id: picture.id, ...body });
    } catch (problem) {
      // The image is no longer cached: it was evicted, or the server was restarted.
      if (problem.status !== 404) throw problem;
      const image = await picture.sent();
      response = await request(path, { image, image_id: picture.id, ...body });
    }
    if (generation !== this.#generation) return null;
    this.exchange = response.exchange;
    return { ...response.body, model: response.exchange.model };
  }

  #report(activity) {
    this.#activity = activity;
    this.#changed();
  }
}

/** Convert a prediction of a response. */
const toResult =
  (model) =>
  ({ confidence, masks }) => ({ score: confidence, mask: new Mask(masks), model });
