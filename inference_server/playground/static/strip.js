/** The strip of pictures: thumbnails with the number of masks, previous and next. */

import { byId, count, fill, make } from "./dom.js";

/** URLs of thumbnails. @type {WeakMap<Blob, string>} */
const urls = new WeakMap();

function urlOf(blob) {
  let url = urls.get(blob);
  if (!url) {
    url = URL.createObjectURL(blob);
    urls.set(blob, url);
  }
  return url;
}

export class Strip {
  /**
   * @param {import("./project.js").Project} project
   * @param {{open: (id: string) => void, remove: (id: string) => void}} actions
   */
  constructor(project, actions) {
    this.project = project;
    this.actions = actions;
    byId("previous").addEventListener("click", () => this.go(-1));
    byId("next").addEventListener("click", () => this.go(1));
  }

  /** Open the picture that is a number of pictures after the one shown. */
  go(step) {
    const entry = this.project.beside(step);
    if (entry) this.actions.open(entry.id);
  }

  render() {
    const { project } = this;
    const { entries, current } = project;
    byId("strip-card").hidden = !entries.length;
    fill(byId("strip"), entries.map((each) => this.#item(each)), byId("stage"));
    const at = entries.findIndex((each) => each.id === current);
    byId("previous").disabled = at <= 0;
    byId("next").disabled = at < 0 || at === entries.length - 1;
    byId("position").textContent = at < 0 ? count(entries.length, "picture") : `${at + 1} of ${entries.length}`;
    const saved = project.isSaved ? "Saved in this browser" : "Saving…";
    byId("saved").textContent = project.isLasting ? saved : "Not saved: export before you close the page";
    const shown = byId("strip").querySelector("[aria-current]");
    if (shown && shown.dataset.focus !== this.shown) shown.scrollIntoView({ block: "nearest", inline: "nearest" });
    this.shown = shown?.dataset.focus;
  }

  #item({ id, name, thumbnail, counts, isUnreadable }) {
    const masks = Object.values(counts).reduce((sum, each) => sum + each, 0);
    const isCurrent = id === this.project.current;
    const note = isUnreadable ? "not readable" : count(masks, "mask");
    return make(
      "li",
      { class: "shot" },
      make(
        "button",
        {
          type: "button",
          class: "sample",
          title: `${name}: ${note}`,
          "aria-label": `Picture ${name}, ${note}`,
          "aria-current": isCurrent ? "true" : null,
          "data-focus": `picture-${id}`,
          onclick: () => this.actions.open(id),
        },
        thumbnail ? make("img", { src: urlOf(thumbnail), alt: "" }) : make("span", { class: "muted" }, isUnreadable ? "?" : "…"),
        masks ? make("span", { class: "mask-count", "aria-hidden": "true" }, String(masks)) : null,
      ),
      make(
        "button",
        {
          type: "button",
          class: "remove",
          "aria-label": `Close ${name}`,
          title: "Close the picture and forget its masks",
          "data-focus": `close-${id}`,
          onclick: () => this.actions.remove(id),
        },
        "×",
      ),
    );
  }
}
