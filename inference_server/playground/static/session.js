/**
 * What the page is about: a picture, prompts, and the server's answers to them.
 *
 * Everything that is shown follows from here. Answers are kept by what was asked, so that undo,
 * the sliders and a concept that is typed again ask nothing.
 */

import { History } from "./history.js";
import { Mask, suppressed } from "./masks.js";
import * as prompts from "./prompts.js";
import { ask } from "./server.js";

/** The server is asked for everything from here on, and the slider chooses. */
export const LEAST = 0.05;

/** Concepts that one request takes, unless the server is set to fewer. */
const MOST_CONCEPTS = 16;

const NOTHING = Object.freeze({ prompts: Object.freeze([]), selected: null });

/** @typedef {import("./prompts.js").Prompt} Prompt */
/** @typedef {{prompt: Prompt, score: number, mask: Mask}} Found */

export class Session extends EventTarget {
  /** @type {import("./picture.js").Picture | null} */
  picture = null;
  threshold = 0.5;
  overlap = 1;
  /** Size of SAM 2; empty is the server's choice. */
  version = "";
  /** What to tell of the last request. @type {import("./server.js").Exchange | null} */
  exchange = null;
  /** What went wrong. @type {import("./problem.js").Problem | null} */
  problem = null;
  /** The prompt that the pointer is on in a list. */
  highlighted = null;

  #history = new History(NOTHING);
  #hidden = new Set();
  /** Answers by what was asked. @type {Map<string, {score: number, mask: Mask}[]>} */
  #answers = new Map();
  /** The last answer to each prompt, until there is one to its new form. */
  #earlier = new Map();
  #uploaded = null;
  #running = new Set();
  /** What the requests under way are about, in words. */
  #asking = "";
  /** The picture that is on its way. @type {Promise<import("./picture.js").Picture> | null} */
  #opening = null;
  /** Answers of an earlier picture count no more. */
  #turn = 0;

  /** What goes on, in words; empty if nothing does. */
  get work() {
    return this.#opening ? "Opening the picture…" : this.#asking;
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

  /** The prompt that further clicks or examples refine. @returns {Prompt | undefined} */
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

  isAnswered(prompt) {
    return this.#answers.has(this.#name(prompt));
  }

  /** Whether an answer to a prompt is under way. */
  isWaiting(prompt) {
    return this.picture !== null && this.problem === null && !this.isAnswered(prompt);
  }

  /** All that was found for a prompt, from `LEAST` on. @returns {Found[]} */
  found(prompt) {
    const found = this.#answers.get(this.#name(prompt)) ?? this.#earlier.get(prompt.id) ?? [];
    return found.map((each) => ({ prompt, ...each }));
  }

  /** The masks that the toggles and the sliders leave. @returns {Found[]} */
  shown() {
    const visible = (each) => !this.isHidden(each);
    const concepts = this.concepts
      .filter(visible)
      .flatMap((each) => this.found(each))
      .filter((each) => each.score >= this.threshold);
    const objects = this.objects.filter(visible).flatMap((each) => this.found(each));
    return [...suppressed(concepts, this.overlap), ...objects].filter((each) => each.mask.area > 0);
  }

  /**
   * Look at another picture when it is there, of several at the one that was chosen last.
   *
   * Words stay, clicks and boxes belong to the old picture.
   *
   * @param {Promise<import("./picture.js").Picture>} opening
   * @returns the picture, or null if there is a reason to stay with the old one.
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
    if (picture) this.#lookAt(picture);
    else this.tell(problem);
    return picture;
  }

  #lookAt(picture) {
    this.picture?.close();
    this.picture = picture;
    this.#turn += 1;
    this.#uploaded = null;
    this.#answers.clear();
    this.#earlier.clear();
    this.#running.clear();
    this.exchange = null;
    this.problem = null;
    this.#asking = "";
    const kept = this.prompts.filter((each) => each.kind === "concept");
    this.#history = new History({ prompts: kept, selected: null });
    this.#changed();
    // The picture is encoded while its user still thinks about what to click on.
    this.#run("upload", () => this.#upload(this.#turn));
    this.#answerAll();
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

  /** A box around an example: of the selected example prompt, or of a new one. */
  addExample(box) {
    const { selected } = this;
    if (selected?.kind === "example") {
      this.#replace({ ...selected, boxes: [...selected.boxes, box] });
    } else {
      this.#add(prompts.exampleOf(box, this.prompts));
    }
  }

  /** A click: on the selected object, or on a new one. */
  addPoint(point) {
    const { selected } = this;
    if (selected?.kind === "object") {
      this.#replace({ ...selected, points: [...selected.points, point] });
    } else {
      this.#add(prompts.objectOf([point], null, this.prompts));
    }
  }

  /** A box is always about a new object. */
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
    if (this.prompts.length) this.#edit(NOTHING);
  }

  undo() {
    this.#history.undo();
    this.#changed();
    this.#answerAll();
  }

  redo() {
    this.#history.redo();
    this.#changed();
    this.#answerAll();
  }

  toggle(prompt) {
    if (!this.#hidden.delete(prompt.id)) this.#hidden.add(prompt.id);
    this.#changed();
  }

  /** Show a prompt's masks before the others; `highlight` tells of it, and not `change`. */
  highlight(prompt) {
    this.highlighted = prompt;
    this.dispatchEvent(new Event("highlight"));
  }

  /** Change `threshold`, `overlap` or `version`. */
  set(values) {
    Object.assign(this, values);
    this.#changed();
    this.#answerAll();
  }

  /** Tell a problem, or that there is none. */
  tell(problem) {
    this.problem = problem;
    this.#changed();
  }

  /** Try again what has failed. */
  retry() {
    this.problem = null;
    this.#changed();
    if (this.picture && !this.#uploaded) this.#run("upload", () => this.#upload(this.#turn));
    this.#answerAll();
  }

  #name(prompt) {
    return (prompts.isConcept(prompt) ? "" : this.version) + prompts.identity(prompt);
  }

  #add(prompt) {
    this.#edit({ prompts: [...this.prompts, prompt], selected: prompt.id });
  }

  #replace(prompt) {
    this.#earlier.set(prompt.id, this.#answers.get(this.#name(this.selected)) ?? []);
    const list = this.prompts.map((each) => (each.id === prompt.id ? Object.freeze(prompt) : each));
    this.#edit({ prompts: list, selected: prompt.id });
  }

  #edit(state) {
    this.#history.push(state);
    this.problem = null;
    this.#changed();
    this.#answerAll();
  }

  #changed() {
    this.dispatchEvent(new Event("change"));
  }

  /** Ask for what is not answered yet; clicks do not wait for concepts. */
  #answerAll() {
    if (!this.picture || this.problem) return;
    this.#run("objects", () => this.#answerObjects(this.#turn));
    this.#run("concepts", () => this.#answerConcepts(this.#turn));
  }

  /** Do one thing of a kind at a time; what comes meanwhile is seen by its loop. */
  async #run(kind, work) {
    if (this.#running.has(kind)) return;
    const turn = this.#turn;
    this.#running.add(kind);
    try {
      await work();
    } catch (problem) {
      if (turn === this.#turn) this.problem = problem;
    } finally {
      if (turn === this.#turn) {
        this.#running.delete(kind);
        if (!this.#running.size) this.#asking = "";
        this.#changed();
      }
    }
  }

  async #answerConcepts(turn) {
    for (;;) {
      const asked = this.concepts.filter((each) => this.isWaiting(each)).slice(0, MOST_CONCEPTS);
      if (!asked.length || turn !== this.#turn) return;
      this.#says(`Looking for ${asked.map((each) => each.name).join(", ")}…`);
      const body = prompts.conceptRequest(asked, LEAST);
      const names = asked.map((each) => this.#name(each));
      const answer = await this.#ask(turn, "sam3/concept_segment", body);
      if (!answer) return;
      answer.prompt_results.forEach(({ prompt_index: index, predictions }) => {
        this.#answers.set(names[index], predictions.map(read));
      });
      this.#changed();
    }
  }

  async #answerObjects(turn) {
    for (;;) {
      const asked = this.objects.find((each) => this.isWaiting(each));
      if (!asked || turn !== this.#turn) return;
      this.#says(`Segmenting ${asked.name}…`);
      const name = this.#name(asked);
      const body = prompts.objectRequest(asked, this.version);
      const answer = await this.#ask(turn, "sam2/segment_image", body);
      if (!answer) return;
      this.#answers.set(name, answer.predictions.map(read));
      this.#changed();
    }
  }

  /** Send the picture, once, and have it encoded for clicks. */
  #upload(turn) {
    this.#uploaded ??= (async () => {
      const { picture } = this;
      this.#says("Encoding the picture…");
      const body = { image: await picture.sent(), image_id: picture.id };
      if (this.version) body.sam2_version_id = this.version;
      const { exchange } = await ask("sam2/embed_image", body);
      if (turn === this.#turn) this.exchange = exchange;
    })();
    const uploaded = this.#uploaded;
    uploaded.catch(() => {
      if (this.#uploaded === uploaded) this.#uploaded = null;
    });
    return uploaded;
  }

  /** Ask about the picture by its id. @returns its body, or null if the picture has changed. */
  async #ask(turn, path, body) {
    const { picture } = this;
    await this.#upload(turn);
    if (turn !== this.#turn) return null;
    let answer;
    try {
      answer = await ask(path, { image_id: picture.id, ...body });
    } catch (problem) {
      // The server was restarted, or has thrown the picture out.
      if (problem.status !== 404) throw problem;
      answer = await ask(path, { image: await picture.sent(), image_id: picture.id, ...body });
    }
    if (turn !== this.#turn) return null;
    this.exchange = answer.exchange;
    return answer.body;
  }

  #says(work) {
    this.#asking = work;
    this.#changed();
  }
}

/** A prediction as the session keeps it. */
const read = ({ confidence, masks }) => ({ score: confidence, mask: new Mask(masks) });
