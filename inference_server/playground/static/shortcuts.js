/** Keys that work while neither a field nor another control has the focus. */

import { byId } from "./dom.js";

const MODES = { v: "select", i: "include", x: "exclude" };
const ZOOM = 1.5;

/**
 * @param {object} page
 * @param {import("./session.js").Session} page.session
 * @param {import("./stage.js").Stage} page.stage
 * @param {import("./strip.js").Strip} page.strip
 * @param {import("./selection.js").Selection} page.selection
 * @param {(text: string) => void} page.say
 */
export function listenForKeys({ session, stage, strip, selection, say }) {
  const actions = {
    Delete: () => selection.reject(),
    Backspace: () => selection.reject(),
    h: () => session.hide(),
    H: () => session.showAll(),
    r: () => selection.refine(),
    c: () => selection.showCandidates(),
    p: () => byId("hover").click(),
    j: () => selection.go(1),
    k: () => selection.go(-1),
    ",": () => strip.go(-1),
    ".": () => strip.go(1),
    "+": () => stage.zoom(ZOOM),
    "=": () => stage.zoom(ZOOM),
    "-": () => stage.zoom(1 / ZOOM),
    0: () => stage.fit(),
  };
  for (const [key, mode] of Object.entries(MODES)) {
    actions[key] = () => {
      stage.mode = mode;
      say(`${mode[0].toUpperCase()}${mode.slice(1)}.`);
    };
  }
  for (let number = 1; number <= 9; number += 1) {
    actions[number] = () => {
      const chosen = session.project.classes.list[number - 1];
      if (!chosen) return;
      session.setClass(chosen.id);
      say(`Class ${chosen.name}.`);
    };
  }

  addEventListener("keydown", (event) => {
    const { target } = event;
    const isTyping = target.matches?.("input[type=text], input[type=password]");
    if ((event.ctrlKey || event.metaKey) && !event.altKey) {
      const name = event.key.toLowerCase();
      if (isTyping || !["z", "y"].includes(name)) return;
      if (name === "y" || event.shiftKey) session.redo();
      else session.undo();
      event.preventDefault();
      return;
    }
    // Single keys act on the picture only, so that they disturb no control and no speech input.
    const isFree = target === document.body || byId("work").contains(target);
    if (!isFree || event.altKey || target.matches?.("input:not([type=radio]), select, dialog *")) return;
    const act = actions[event.key];
    if (!act || !session.picture) return;
    act();
    event.preventDefault();
  });
}
