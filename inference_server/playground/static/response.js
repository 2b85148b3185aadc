/** The panel with model, cache status and timings of the last response. */

import { byId, fill, make } from "./dom.js";

const STEPS = {
  upload: "upload",
  fetch: "fetch",
  decode: "decode image",
  queue: "queue",
  encode: "encode image",
  "decode-prompts": "decode prompts",
  masks: "masks",
  serialise: "serialise",
};

const NONE = "Model, cache status and timings of the last request about this picture.";

const milliseconds = (value) => `${value < 10 ? value.toFixed(1) : Math.round(value)} ms`;

/** @param {import("./server.js").Exchange | null} exchange */
export function renderResponse(exchange) {
  if (!exchange) {
    fill(byId("response"), [make("p", { class: "muted" }, NONE)]);
    return;
  }
  const isHit = exchange.cache === "hit";
  const inServer = exchange.timings.reduce((sum, each) => sum + each.milliseconds, 0);
  const longest = Math.max(1, ...exchange.timings.map((each) => each.milliseconds));
  const facts = [
    ["Request", `POST ${exchange.path}`],
    ["Model", exchange.model || "–"],
    ["Server time", milliseconds(inServer)],
    ["Round trip", milliseconds(exchange.milliseconds)],
  ];
  fill(byId("response"), [
    make(
      "p",
      { class: isHit ? "badge good" : "badge" },
      isHit ? "Cache hit: reused the image embedding" : "Cache miss: encoded the image",
    ),
    make(
      "dl",
      { class: "facts" },
      ...facts.map(([name, value]) => make("div", {}, make("dt", {}, name), make("dd", {}, value))),
    ),
    make(
      "ul",
      { class: "timings", "aria-label": "Server timings" },
      ...exchange.timings.map(({ name, milliseconds: value }) => {
        const bar = make("span", { class: "timing-bar", "aria-hidden": "true" });
        bar.style.setProperty("--share", String(value / longest));
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
