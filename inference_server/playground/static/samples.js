/** The samples: generated scenes that the demo weights know. */

import { byId, fill, make } from "./dom.js";
import { Picture } from "./picture.js";
import { Problem } from "./problem.js";

const SAMPLES = [
  ["scene.jpg", "circles, crosses and a ring"],
  ["scene-16.jpg", "a large red circle and stars"],
  ["scene-11.jpg", "yellow rings and stars"],
  ["scene-20.jpg", "squares, a ring and a cross"],
  ["scene-13.jpg", "upright, with stars"],
];

/** What to look for in them. */
export const SUGGESTIONS = ["red circle", "yellow ring", "star", "shape"];

/** @param {(opening: Promise<Picture>) => void} open */
export function renderSamples(open) {
  const items = SAMPLES.map(([name, about]) =>
    make(
      "li",
      {},
      make(
        "button",
        { type: "button", class: "sample", onclick: () => open(fetched(name)) },
        make("img", { src: `playground/${name}`, alt: `Sample: ${about}`, loading: "lazy" }),
      ),
    ),
  );
  fill(byId("samples"), items);
}

async function fetched(name) {
  let response;
  try {
    response = await fetch(`playground/${name}`, { credentials: "omit" });
  } catch {
    throw Problem.unreachable(location.origin);
  }
  if (!response.ok) throw Problem.of(response, await response.text());
  return Picture.open(await response.blob(), { name });
}
