/** The bar of the selected mask: what it is, and what can be done with it. */

import { byId, fill, make } from "./dom.js";
import { isAmbiguous } from "./prompts.js";
import { described } from "./stage.js";

export class Selection {
  /** SAM's other masks for the selected object. @type {import("./candidates.js").Candidate[]} */
  #candidates = [];
  /** The prompt that the candidates are of. */
  #of = null;

  /**
   * @param {import("./session.js").Session} session
   * @param {import("./stage.js").Stage} stage
   * @param {(text: string) => void} say
   * @param {(prompt: object) => Promise<import("./candidates.js").Candidate[]>} find candidates.
   */
  constructor(session, stage, say, find) {
    this.session = session;
    this.stage = stage;
    this.say = say;
    this.find = find;
    byId("refine").addEventListener("click", () => this.refine());
    byId("hide").addEventListener("click", () => session.hide());
    byId("reject").addEventListener("click", () => this.reject());
    byId("alternatives").addEventListener("click", () => this.showCandidates());
    byId("show-all").addEventListener("click", () => session.showAll());
    byId("previous-mask").addEventListener("click", () => this.go(-1));
    byId("next-mask").addEventListener("click", () => this.go(1));
  }

  /** Select the next or previous mask. */
  go(step) {
    const found = this.session.pickBeside(step);
    this.say(found ? described(found) : "No masks.");
  }

  refine() {
    const { picked } = this.session.document;
    if (!picked) return;
    this.session.refine();
    this.stage.mode = "include";
    this.say("Click to add to the mask; Shift+click to exclude.");
  }

  reject() {
    const { picked } = this.session.document;
    if (!picked && this.session.selected?.kind !== "object") return;
    this.session.reject();
    this.say("Removed the mask. Undo brings it back.");
  }

  async showCandidates() {
    const prompt = this.session.selected;
    if (!prompt) return;
    const found = await this.find(prompt);
    if (this.session.selected?.id !== prompt.id) return;
    [this.#candidates, this.#of] = [found, prompt.id];
    this.session.changed();
  }

  render() {
    const { session } = this;
    const { picked } = session.document;
    const { selected } = session;
    const isHidden = picked && [picked, selected].some((each) => session.document.isHidden(each));
    const name = picked ? `${picked.class.name} ${picked.score.toFixed(2)}` : "No mask selected";
    byId("selected-name").textContent = isHidden ? `${name} (hidden)` : name;
    byId("selected-dot").style.setProperty("--colour", picked?.class.colour ?? "transparent");
    byId("refine").disabled = !picked || selected.kind === "object";
    byId("hide").disabled = !picked;
    byId("hide").textContent = isHidden ? "Show" : "Hide";
    byId("reject").disabled = !picked;
    const isOpen = selected?.kind === "object" && isAmbiguous(selected) && Boolean(selected.points.length || selected.box);
    byId("alternatives").disabled = !isOpen;
    const hidden = session.document.hiddenMasks;
    byId("show-all").hidden = !hidden;
    byId("show-all").textContent = `Show hidden (${hidden})`;
    const none = !session.shown().length;
    byId("previous-mask").disabled = byId("next-mask").disabled = none;
    const candidates = isOpen && this.#of === selected.id ? this.#candidates : [];
    byId("candidates").hidden = !candidates.length;
    fill(byId("candidates"), candidates.map((each, index) => this.#candidate(each, index, picked)), byId("stage"));
  }

  #candidate(each, index, picked) {
    const share = (100 * each.mask.area) / (each.mask.width * each.mask.height);
    return make(
      "button",
      {
        type: "button",
        "aria-pressed": String(picked?.mask.key === each.mask.key),
        title: `Score ${each.score.toFixed(2)}, ${share.toFixed(1)} % of the picture`,
        "data-focus": `candidate-${index}`,
        onpointerenter: () => this.stage.preview(each.mask),
        onpointerleave: () => this.stage.preview(null),
        onclick: () => {
          this.stage.preview(null);
          this.session.choose(each);
          this.say(`Mask ${index + 1} of ${this.#candidates.length}.`);
        },
      },
      `Mask ${index + 1}: ${each.score.toFixed(2)}, ${share.toFixed(1)} %`,
    );
  }
}
