/** Edits of the prompts and masks of the picture that is shown. */

import { Document, EMPTY } from "./document.js";
import * as prompts from "./prompts.js";

/** @typedef {import("./prompts.js").Prompt} Prompt */
/** @typedef {import("./document.js").Found} Found */

export class Editor extends EventTarget {
  /** @type {import("./picture.js").Picture | null} */
  picture = null;
  /** The prompt under the pointer in a list. */
  highlighted = null;

  /** @param {import("./project.js").Project} project */
  constructor(project) {
    super();
    this.project = project;
    /** Prompts and results of the picture; words can be added before there is one. */
    this.document = new Document(project.classes);
  }

  /** Called after each change of the document. */
  edited() {
    this.save();
    this.changed();
  }

  get prompts() {
    return this.document.prompts;
  }

  get concepts() {
    return this.document.concepts;
  }

  get objects() {
    return this.document.objects;
  }

  get selected() {
    return this.document.selected;
  }

  get version() {
    return this.document.version;
  }

  get threshold() {
    return this.project.settings.threshold;
  }

  get overlap() {
    return this.project.settings.overlap;
  }

  /** The visible masks. @returns {Found[]} */
  shown() {
    return this.document.shown(this.project.settings);
  }

  /** Add words, each for a class of the same name; `class=word` names another class. */
  addConcepts(texts) {
    let list = this.prompts;
    for (const typed of texts) {
      const [word, name = word] = typed.split("=").map((part) => part.trim()).toReversed();
      if (!word || list.some((each) => each.text?.toLowerCase() === word.toLowerCase())) continue;
      list = [...list, prompts.conceptOf(word, this.#class(name || word).id)];
    }
    if (list !== this.prompts) this.edit({ prompts: list, selected: null, instance: null });
  }

  #class(name) {
    const made = this.project.classes.add(name);
    this.project.set();
    return made;
  }

  #nextClass() {
    const next = this.project.classes.next();
    this.project.set();
    return next.id;
  }

  /** Add an exemplar box to the selected example prompt, or to a new one. */
  addExample(box) {
    const { selected } = this;
    if (selected?.kind === "example") {
      this.#replace({ ...selected, boxes: [...selected.boxes, box] });
    } else {
      this.#add(prompts.exampleOf(box, this.#nextClass(), this.prompts));
    }
  }

  /**
   * Add a point to the selected object, or to a new one if it is away from that.
   *
   * @param {import("./prompts.js").Point} point
   */
  addPoint(point) {
    const { selected, picked } = this.document;
    if (selected?.kind === "object" && (!point.positive || this.#isNear(selected, point))) {
      this.#replace(prompts.withPoint(selected, point));
    } else if (selected && picked && (!point.positive || this.#isNear(selected, point))) {
      const object = prompts.withPoint(this.#objectOf(picked), point);
      const { mask, score, model } = picked;
      this.document.showMeanwhile(object, [{ rle: mask.rle, score, model }]);
      this.#take(object, picked);
    } else if (point.positive) {
      this.#add(prompts.objectOf([point], null, this.#nextClass(), this.prompts));
    }
  }

  /** Whether a click on an object or close to it refines the object. */
  #isNear(selected, { x, y }) {
    const { picture } = this;
    const longer = Math.max(picture.width, picture.height);
    const mask = this.document.hasResults(selected) ? this.document.picked?.mask : null;
    if (!mask?.area) {
      const { box, points } = selected;
      const isIn = box && x >= box.x0 && x <= box.x1 && y >= box.y0 && y <= box.y1;
      const margin = longer / 20;
      return isIn || !points || points.some((each) => Math.hypot(each.x - x, each.y - y) < margin);
    }
    const [left, top, width, height] = mask.box;
    const margin = Math.max(longer / 100, Math.max(width, height) / 12);
    const isClose =
      x >= left - margin && y >= top - margin && x <= left + width + margin && y <= top + height + margin;
    const isElsewhere = (each) => each.mask !== mask && each.mask.contains(x, y);
    return mask.contains(x, y) || (isClose && !this.shown().some(isElsewhere));
  }

  /** Add a new object with a box. */
  addBox(box) {
    this.#add(prompts.objectOf([], box, this.#nextClass(), this.prompts));
  }

  /** Add objects whose masks are known. @param {{mask: Mask, score: number, model: string}[]} found */
  addMasks(found) {
    const classId = this.#nextClass();
    const list = found.reduce(
      (all, each) => [...all, prompts.objectOfMask(each, classId, all)],
      this.prompts,
    );
    if (found.length) this.edit({ prompts: list, selected: null, instance: null });
  }

  /** Give the selected object another mask, such as one of SAM's candidates. */
  choose({ mask, score, model }) {
    if (this.selected?.kind !== "object") return;
    this.#replace({ ...this.selected, fixed: { rle: mask.rle, score, model } });
  }

  /** Select the smallest mask at a point; the next larger one if that is selected already. */
  pick({ x, y }) {
    const under = this.shown()
      .filter(({ mask }) => mask.contains(x, y))
      .sort((a, b) => a.mask.area - b.mask.area);
    const at = under.findIndex((each) => each.id === this.document.picked?.id);
    return this.selectMask(under[(at + 1) % Math.max(1, under.length)]);
  }

  /** Select the mask that is a number of masks after the selected one. */
  pickBeside(step) {
    const shown = this.shown();
    const at = shown.findIndex((each) => each.id === this.document.picked?.id);
    const next = at < 0 ? (step > 0 ? 0 : shown.length - 1) : (at + step + shown.length) % shown.length;
    return this.selectMask(shown[next]);
  }

  /** @param {Found | undefined} found */
  selectMask(found) {
    if (found) {
      this.document.select(found.prompt.id, found.prompt.kind === "object" ? null : found.mask.key);
    } else this.document.select(null);
    this.changed();
    return found;
  }

  /** Turn the selected instance into an object that clicks refine. */
  refine() {
    const { selected, picked } = this.document;
    if (picked && selected.kind !== "object") this.#take(this.#objectOf(picked), picked);
  }

  /** Remove the selected mask. */
  reject() {
    const { selected, picked } = this.document;
    if (selected?.kind === "object") this.remove(selected);
    else if (picked) {
      this.edit({ rejected: [...this.document.state.rejected, picked.id], selected: null, instance: null });
    }
  }

  /** Hide the selected mask, or show it again. */
  hide() {
    const { selected, picked } = this.document;
    if (picked) this.toggle(selected.kind === "object" ? selected : picked);
  }

  /** Make a class the next one, and give it to the selected mask. */
  setClass(id) {
    this.project.classes.active = id;
    this.project.set();
    const { selected, picked } = this.document;
    if (selected?.kind === "object" && selected.classId !== id) this.#replace({ ...selected, classId: id });
    else if (picked && selected.kind !== "object" && picked.class.id !== id) {
      this.#take({ ...this.#objectOf(picked), classId: id }, picked);
    } else this.changed();
  }

  #objectOf(found) {
    return prompts.objectOfMask(found, found.class.id, this.prompts);
  }

  /** Replace an instance by an object. */
  #take(object, instance) {
    this.edit({
      prompts: [...this.prompts, Object.freeze(object)],
      rejected: [...this.document.state.rejected, instance.id],
      selected: object.id,
      instance: null,
    });
  }

  remove(prompt) {
    const list = this.prompts.filter((each) => each.id !== prompt.id);
    const { selected, instance } = this.document.state;
    const rest = selected === prompt.id ? { selected: null, instance: null } : { selected, instance };
    this.edit({ prompts: list, ...rest });
  }

  /** @param {Prompt | null} prompt */
  select(prompt) {
    this.document.select(prompt?.id ?? null);
    this.changed();
  }

  clear() {
    if (this.prompts.length) this.edit(EMPTY);
  }

  undo() {
    this.document.undo();
    this.#restored();
  }

  redo() {
    this.document.redo();
    this.#restored();
  }

  /** A step back or forth may have prompts whose classes were removed meanwhile. */
  #restored() {
    this.project.classes.revive(this.document.classIds);
    this.project.set();
    this.edited();
  }

  toggle(each) {
    this.document.toggle(each);
    this.save();
    this.changed();
  }

  showAll() {
    this.document.showAll();
    this.save();
    this.changed();
  }

  /** Highlight the masks of a prompt. Dispatches `highlight` instead of `change`. */
  highlight(prompt) {
    this.highlighted = prompt;
    this.dispatchEvent(new Event("highlight"));
  }

  #add(prompt) {
    this.edit({ prompts: [...this.prompts, prompt], selected: prompt.id, instance: null });
  }

  #replace(prompt) {
    const list = this.prompts.map((each) => (each.id === prompt.id ? Object.freeze(prompt) : each));
    this.edit({ prompts: list, selected: prompt.id, instance: null });
  }

  /** Change the prompts as a step that can be undone. */
  edit(changes) {
    this.document.edit(changes);
    this.edited();
  }

  /** Store the document. */
  save() {
    if (this.picture) this.project.save(this.picture.id, this.document);
  }

  changed() {
    this.dispatchEvent(new Event("change"));
  }
}
