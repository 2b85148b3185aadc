/** The samples: generated scenes that the demo models recognise. */

import { byId, fill, make } from "./dom.js";
import { Picture } from "./picture.js";
import { Problem } from "./problem.js";

/** File name, description, suggested concepts. */
const SAMPLES = [
  ["scene.jpg", "circles, crosses and a ring", ["red circle", "cross", "shape"]],
  ["scene-35.jpg", "stars, squares and triangles", ["purple star", "square", "white shape"]],
  ["scene-17.jpg", "white and orange shapes", ["white cross", "orange ring", "circle"]],
  ["scene-8.jpg", "yellow crosses among others", ["yellow cross", "blue star", "yellow shape"]],
  ["scene-13.jpg", "upright, with stars", ["star", "orange triangle", "cross"]],
];

/** Suggested concepts for an image, for servers with demo weights. */
export function suggestions(picture) {
  const sample = SAMPLES.find(([name]) => name === picture?.name);
  return sample?.[2] ?? ["red circle", "yellow ring", "shape"];
}

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
  if (!response.ok) throw Problem.of(response.status, await response.text());
  return Picture.open(await response.blob(), { name });
}
