/** The list of classes: colour, name, number of masks; one is that of the next object. */

import { byId, count, fill, make } from "./dom.js";

export class ClassList {
  #isTyping = false;

  /** @param {import("./session.js").Session} session */
  constructor(session) {
    this.session = session;
    byId("class-form").addEventListener("submit", (event) => {
      event.preventDefault();
      const field = byId("class-name");
      const names = field.value.split(",").map((name) => name.trim()).filter(Boolean);
      field.value = "";
      for (const name of names) this.#classes.add(name);
      this.#changed();
    });
  }

  get #classes() {
    return this.session.project.classes;
  }

  #changed() {
    this.session.project.set();
    this.session.changed();
  }

  render() {
    const { list } = this.#classes;
    // A name that is being typed would be lost.
    if (!this.#isTyping) {
      fill(byId("classes"), list.map((each, index) => this.#row(each, index)), byId("class-name"));
      for (const [index, each] of list.entries()) {
        // The values of fields are no attributes, so `fill` cannot compare them.
        const row = byId("classes").children[index];
        row.querySelector("[type=color]").value = each.colour;
        row.querySelector("[type=text]").value = each.name;
      }
    }
    const next = list.length ? this.#classes.next() : null;
    byId("next-class").textContent = next ? next.name : "object";
    byId("next-dot").style.setProperty("--colour", next?.colour ?? "transparent");
  }

  /** Masks and pictures of a class, in all pictures. */
  #numbers(id) {
    const { entries, classes } = this.session.project;
    let [masks, pictures] = [0, 0];
    for (const { counts } of entries) {
      const sum = Object.entries(counts)
        .filter(([of]) => classes.of(Number(of)).id === id)
        .reduce((total, [, each]) => total + each, 0);
      masks += sum;
      pictures += sum ? 1 : 0;
    }
    return [masks, pictures];
  }

  /** Whether prompts of any picture have a class, also hidden ones and those without masks. */
  #isUsed(id) {
    const { entries, classes } = this.session.project;
    const used = [...entries.flatMap((each) => each.classIds), ...this.session.document.classIds];
    return used.some((each) => classes.of(each).id === id);
  }

  #row({ id, name }, index) {
    const classes = this.#classes;
    const [masks, pictures] = this.#numbers(id);
    const isUsed = this.#isUsed(id);
    const isActive = classes.next().id === id;
    const choose = () => this.session.setClass(id);
    return make(
      "li",
      { class: isActive ? "row class selected" : "row class" },
      make("input", {
        type: "color",
        "aria-label": `Colour of ${name}`,
        "data-focus": `colour-${id}`,
        oninput: (event) => {
          classes.recolour(id, event.target.value);
          this.#changed();
        },
      }),
      make("input", {
        type: "text",
        "aria-label": `Name of class ${index + 1}`,
        title: "Rename; the name of another class merges both",
        maxlength: 256,
        "data-focus": `name-${id}`,
        oninput: () => (this.#isTyping = true),
        onblur: () => (this.#isTyping = false),
        onchange: (event) => {
          this.#isTyping = false;
          classes.rename(id, event.target.value);
          this.#changed();
        },
      }),
      make("span", { class: "number", title: `${count(masks, "mask")} in ${count(pictures, "picture")}` }, String(masks)),
      make(
        "button",
        {
          type: "button",
          class: "key",
          "aria-pressed": String(isActive),
          "aria-label": `Use ${name} for the selected mask and the next objects`,
          title: index < 9 ? `Use this class (${index + 1})` : "Use this class",
          "data-focus": `class-${id}`,
          onclick: choose,
        },
        index < 9 ? String(index + 1) : "·",
      ),
      make(
        "button",
        {
          type: "button",
          class: "remove",
          "aria-label": `Remove class ${name}`,
          title: isUsed ? "A class with masks or prompts cannot be removed" : "Remove",
          disabled: isUsed,
          "data-focus": `remove-class-${id}`,
          onclick: () => {
            classes.remove(id);
            this.#changed();
          },
        },
        "×",
      ),
    );
  }
}
