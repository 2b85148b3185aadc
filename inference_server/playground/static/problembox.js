/** The box that shows the current error, with what can be done about it. */

import { byId, fill, make } from "./dom.js";
import { Problem } from "./problem.js";

/**
 * @param {unknown} problem
 * @param {{enterKey: () => void, retry: () => void, shrink: () => void}} actions
 */
export function renderProblem(problem, { enterKey, retry, shrink }) {
  const box = byId("problem");
  const same = box.dataset.title === problem?.title && box.dataset.text === problem?.text;
  if (same && box.childElementCount === (problem ? 1 : 0)) return;
  box.dataset.title = problem?.title ?? "";
  box.dataset.text = problem?.text ?? "";
  if (!problem) {
    box.replaceChildren();
    return;
  }
  const shown =
    problem instanceof Problem
      ? problem
      : new Problem("Page error", String(problem), "Reload the page.");
  const button = (label, onclick) => make("button", { type: "button", onclick }, label);
  fill(box, [
    make(
      "div",
      { class: "problem" },
      make("strong", {}, shown.title),
      make("p", {}, [shown.text, shown.remedy].filter(Boolean).join(" ")),
      make(
        "div",
        { class: "buttons" },
        shown.wantsKey ? button("Enter API key", enterKey) : null,
        shown.wantsSmaller ? button("Send a smaller copy", shrink) : null,
        shown.isFinal ? null : button("Retry", retry),
      ),
    ),
  ]);
}
