/** The fields, sliders and buttons beside the picture, and their settings. */

import { byId, count } from "./dom.js";
import { download, pointsOf } from "./exports.js";

/** Sliders by setting: the field, and how its value is shown. */
const SLIDERS = {
  threshold: ["threshold", (value) => value.toFixed(2)],
  overlap: ["nms", (value) => (value < 1 ? value.toFixed(2) : "off")],
  opacity: ["opacity", (value) => `${Math.round(100 * value)} %`],
  outline: ["outline", (value) => `${value} px`],
  epsilon: ["epsilon", (value) => `${value} px`],
};
const CHECKS = { labels: "labels", preview: "hover" };
const CHOICES = { coco: "coco-form", scope: "scope" };

export class Controls {
  /**
   * @param {import("./session.js").Session} session
   * @param {(text: string) => void} say shows a status message.
   */
  constructor(session, say) {
    this.session = session;
    const { project } = session;
    const set = (values) => {
      project.set(values);
      session.changed();
    };
    for (const [name, [id]] of Object.entries(SLIDERS)) {
      byId(id).addEventListener("input", (event) => set({ [name]: Number(event.target.value) }));
    }
    for (const [name, id] of Object.entries(CHECKS)) {
      byId(id).addEventListener("change", (event) => set({ [name]: event.target.checked }));
    }
    for (const [name, id] of Object.entries(CHOICES)) {
      byId(id).addEventListener("change", (event) => set({ [name]: event.target.value }));
    }
    byId("version").addEventListener("change", (event) => session.setVersion(event.target.value));
    byId("undo").addEventListener("click", () => session.undo());
    byId("redo").addEventListener("click", () => session.redo());
    byId("clear").addEventListener("click", () => session.clear());
    byId("new-object").addEventListener("click", () => session.select(null));
    byId("downloads").addEventListener("click", async (event) => {
      const { form } = event.target.dataset;
      if (form) say(`Saved ${await download(session, form)}.`);
    });
    byId("concept-form").addEventListener("submit", (event) => {
      event.preventDefault();
      this.#addConcepts();
    });
    byId("concept").addEventListener("keydown", (event) => {
      if (event.key === ",") {
        event.preventDefault();
        this.#addConcepts();
      } else if (event.key === "Backspace" && !event.target.value && session.concepts.length) {
        session.remove(session.concepts.at(-1));
      }
    });
  }

  #addConcepts() {
    const field = byId("concept");
    const texts = field.value.split(",").map((text) => text.trim()).filter(Boolean);
    field.value = "";
    this.session.addConcepts(texts);
  }

  /** Show stored settings in the fields. */
  restore() {
    const { settings } = this.session.project;
    for (const [name, [id]] of Object.entries(SLIDERS)) byId(id).value = String(settings[name]);
    for (const [name, id] of Object.entries(CHECKS)) byId(id).checked = settings[name];
    for (const [name, id] of Object.entries(CHOICES)) byId(id).value = settings[name];
  }

  /** @param {import("./document.js").Found[]} shown */
  render(shown) {
    const { session } = this;
    const { project, document } = session;
    const { settings } = project;
    for (const [name, [id, format]] of Object.entries(SLIDERS)) {
      const text = format(settings[name]);
      byId(`${id}-value`).textContent = text;
      byId(id).setAttribute("aria-valuetext", text);
    }
    byId("undo").disabled = !document.canUndo;
    byId("redo").disabled = !document.canRedo;
    byId("clear").disabled = !session.prompts.length;
    byId("new-object").disabled = !session.selected;
    const isVersion = [...byId("version").options].some(({ value }) => value === session.version);
    byId("version").value = isVersion ? session.version : "";
    const all = session.concepts.reduce((sum, each) => sum + document.found(each).length, 0);
    const visible = shown.filter((each) => each.prompt.kind !== "object").length;
    byId("counts").textContent = all ? `${visible} of ${count(all, "mask")} shown.` : "No masks.";
    const isMany = project.entries.length > 1;
    byId("scope-field").hidden = !isMany;
    const hasAny = shown.length > 0 || (isMany && project.entries.some((each) => Object.keys(each.counts).length));
    for (const button of byId("downloads").querySelectorAll("[data-form]")) {
      const isOne = ["overlay", "mask"].includes(button.dataset.form) || settings.scope === "one" || !isMany;
      button.disabled = !session.picture || !(isOne ? shown.length : hasAny);
    }
    byId("points").textContent = shown.length
      ? `${count(pointsOf(shown, settings.epsilon), "point")} in the polygons of this picture.`
      : "";
  }
}
