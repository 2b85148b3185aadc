/** The lists of prompts: a chip for each concept, a row for each object. */

import { byId, count, fill, make } from "./dom.js";

/**
 * @param {import("./session.js").Session} session
 * @param {import("./session.js").Found[]} shown
 */
export function renderPrompts(session, shown) {
  const chips = session.concepts.map((prompt) => chip(session, prompt, shown));
  fill(byId("concepts"), chips, byId("concept"));
  fill(byId("objects"), session.objects.map((prompt) => row(session, prompt)), byId("stage"));
}

/** What moves the pointer or the focus to a prompt shows its masks before the others. */
function pointed(session, prompt) {
  return {
    onpointerenter: () => session.highlight(prompt),
    onpointerleave: () => session.highlight(null),
  };
}

function toggle(session, prompt, label, ...children) {
  return make(
    "button",
    {
      type: "button",
      class: "toggle",
      "aria-pressed": String(!session.isHidden(prompt)),
      "aria-label": label,
      title: session.isHidden(prompt) ? "Show its masks" : "Hide its masks",
      "data-focus": `toggle-${prompt.id}`,
      onclick: () => session.toggle(prompt),
    },
    dot(prompt, session.isHidden(prompt)),
    ...children,
  );
}

function dot(prompt, isHidden) {
  const element = make("span", { class: isHidden ? "dot hidden" : "dot", "aria-hidden": "true" });
  element.style.setProperty("--colour", prompt.colour);
  return element;
}

function removal(session, prompt) {
  return make(
    "button",
    {
      type: "button",
      class: "remove",
      "aria-label": `Remove ${prompt.name}`,
      title: "Remove",
      "data-focus": `remove-${prompt.id}`,
      onclick: () => session.remove(prompt),
    },
    "×",
  );
}

function chip(session, prompt, shown) {
  const isWaiting = session.isWaiting(prompt);
  const masks = shown.filter((each) => each.prompt.id === prompt.id).length;
  const told = session.isHidden(prompt) ? "hidden" : count(masks, "mask");
  const number = session.isAnswered(prompt) ? String(masks) : "–";
  return make(
    "li",
    { class: isWaiting ? "chip waiting" : "chip", ...pointed(session, prompt) },
    toggle(
      session,
      prompt,
      `Show ${prompt.name}, ${session.isAnswered(prompt) ? told : "not answered yet"}`,
      make("span", { class: "chip-name" }, prompt.name),
      make("span", { class: "number" }, isWaiting ? "…" : number),
    ),
    removal(session, prompt),
  );
}

function row(session, prompt) {
  const isSelected = session.selected?.id === prompt.id;
  const isWaiting = session.isWaiting(prompt);
  const [found] = session.found(prompt);
  const score = session.isAnswered(prompt) && found ? found.score.toFixed(2) : "–";
  const parts = [
    prompt.box ? "box" : null,
    prompt.points.length ? count(prompt.points.length, "click") : null,
  ];
  return make(
    "li",
    { class: `row${isSelected ? " selected" : ""}`, ...pointed(session, prompt) },
    toggle(session, prompt, `Show ${prompt.name}`),
    make(
      "button",
      {
        type: "button",
        class: "row-name",
        "aria-pressed": String(isSelected),
        title: "More clicks refine this object",
        "data-focus": `select-${prompt.id}`,
        onclick: () => session.select(isSelected ? null : prompt),
      },
      make("span", {}, prompt.name),
      make("span", { class: "muted" }, ` ${parts.filter(Boolean).join(" + ")}`),
    ),
    make("span", { class: "number" }, isWaiting ? "…" : score),
    removal(session, prompt),
  );
}
