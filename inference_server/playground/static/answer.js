/** What the last answer said besides: model, cache, timings. */

import { byId, fill, make } from "./dom.js";

const STEPS = {
  upload: "upload",
  fetch: "fetch",
  decode: "decode image",
  queue: "wait",
  encode: "encode image",
  "decode-prompts": "decode prompts",
  masks: "masks",
  serialise: "serialise",
};

const milliseconds = (value) => `${value < 10 ? value.toFixed(1) : Math.round(value)} ms`;

/** @param {import("./server.js").Exchange | null} exchange */
export function renderAnswer(exchange) {
  if (!exchange) return;
  const isHit = exchange.cache === "hit";
  const inServer = exchange.timings.reduce((sum, each) => sum + each.milliseconds, 0);
  const most = Math.max(1, ...exchange.timings.map((each) => each.milliseconds));
  const facts = [
    ["Request", `POST ${exchange.path}`],
    ["Model", exchange.model || "–"],
    ["In the server", milliseconds(inServer)],
    ["Until it was here", milliseconds(exchange.milliseconds)],
  ];
  fill(byId("answer"), [
    make(
      "p",
      { class: isHit ? "badge good" : "badge" },
      isHit ? "Cache hit: the picture was encoded already" : "Cache miss: the picture was encoded now",
    ),
    make(
      "dl",
      { class: "facts" },
      ...facts.map(([name, value]) => make("div", {}, make("dt", {}, name), make("dd", {}, value))),
    ),
    make(
      "ul",
      { class: "timings", "aria-label": "Timings of the server" },
      ...exchange.timings.map(({ name, milliseconds: value }) => {
        const bar = make("span", { class: "timing-bar", "aria-hidden": "true" });
        bar.style.setProperty("--share", String(value / most));
        return make(
          "li",
          {},
          make("span", { class: "timing-name" }, STEPS[name] ?? name),
          make("span", { class: "timing-track" }, bar),
          make("span", { class: "number" }, milliseconds(value)),
        );
      }),
    ),
  ]);
}
