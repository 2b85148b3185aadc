/** The prompt lists: one chip per concept, one row per object. */

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

/** Listeners that highlight the masks of a prompt under the pointer. */
function hover(session, prompt) {
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
      "aria-pressed": String(!session.document.isHidden(prompt)),
      "aria-label": label,
      title: session.document.isHidden(prompt) ? "Show masks" : "Hide masks",
      "data-focus": `toggle-${prompt.id}`,
      onclick: () => session.toggle(prompt),
    },
    dot(classOf(session, prompt), session.document.isHidden(prompt)),
    ...children,
  );
}

const classOf = (session, prompt) => session.project.classes.of(prompt.classId);

function dot({ colour }, isHidden) {
  const element = make("span", { class: isHidden ? "dot hidden" : "dot", "aria-hidden": "true" });
  element.style.setProperty("--colour", colour);
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
  const visible = session.document.isHidden(prompt) ? "hidden" : count(masks, "mask");
  const number = session.document.hasResults(prompt) ? String(masks) : "–";
  const { name } = classOf(session, prompt);
  const isOther = name.toLowerCase() !== prompt.name.toLowerCase();
  const other = isOther ? make("span", { class: "muted" }, ` (${name})`) : null;
  return make(
    "li",
    { class: isWaiting ? "chip waiting" : "chip", ...hover(session, prompt) },
    toggle(
      session,
      prompt,
      `Show ${prompt.name}, ${session.document.hasResults(prompt) ? visible : "no results yet"}`,
      make("span", { class: "chip-name" }, prompt.name, other),
      make("span", { class: "number" }, isWaiting ? "…" : number),
    ),
    removal(session, prompt),
  );
}

function row(session, prompt) {
  const isSelected = session.selected?.id === prompt.id;
  const isWaiting = session.isWaiting(prompt);
  const [found] = session.document.found(prompt);
  const score = session.document.hasResults(prompt) && found ? found.score.toFixed(2) : "–";
  const parts = [
    prompt.box ? "box" : null,
    prompt.points.length ? count(prompt.points.length, "click") : null,
  ];
  const made = prompt.fixed ? "mask" : parts.filter(Boolean).join(" + ");
  return make(
    "li",
    { class: `row${isSelected ? " selected" : ""}`, ...hover(session, prompt) },
    toggle(session, prompt, `Show ${prompt.name}`),
    make(
      "button",
      {
        type: "button",
        class: "row-name",
        "aria-pressed": String(isSelected),
        title: "Select to refine with further clicks",
        "data-focus": `select-${prompt.id}`,
        onclick: () => session.select(isSelected ? null : prompt),
      },
      make("span", {}, prompt.name),
      make("span", { class: "muted" }, ` ${made}, ${classOf(session, prompt).name}`),
    ),
    make("span", { class: "number" }, isWaiting ? "…" : score),
    removal(session, prompt),
  );
}
