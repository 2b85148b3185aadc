/**
 * Data sets of the labelled pictures: COCO, YOLO, PNGs, and the page's own JSON.
 *
 * @typedef {object} Labelled a picture with its visible masks.
 * @property {string} name
 * @property {number} width
 * @property {number} height
 * @property {import("./document.js").Found[]} found
 *
 * @typedef {object} Options
 * @property {import("./classes.js").Class[]} classes
 * @property {number} epsilon most distance of a polygon from the outline, in pixels.
 * @property {"polygons" | "rle"} coco form of the masks in COCO.
 */

import { maskPng } from "./png.js";
import { polygonOf, polygonsOf } from "./polygons.js";
import { sentPrompt } from "./prompts.js";
import { paintLabels, paintMasks } from "./paint.js";
import { safePath, zip } from "./zip.js";

/** Value of `format` in the page's own files. */
export const FORMAT = "inference-server-playground";

const MAX_DIGITS = 6;

const stem = (name) => name.replace(/\.[^./]*$/, "") || "image";

/** Names that differ, made from those of the pictures. @param {Labelled[]} pictures */
function stems(pictures) {
  const taken = new Set();
  return pictures.map(({ name }) => {
    const base = stem(safePath(name));
    let free = base;
    for (let n = 2; taken.has(free); n += 1) free = `${base}-${n}`;
    taken.add(free);
    return free;
  });
}

const text = (value) => new TextEncoder().encode(value);
const jsonBlob = (value) => new Blob([`${JSON.stringify(value, null, 1)}\n`], { type: "application/json" });

/** A COCO data set with one category per class. @param {Labelled[]} pictures @param {Options} options */
export function coco(pictures, { classes, epsilon, coco: form }) {
  const annotations = pictures.flatMap(({ found }, picture) =>
    found.map(({ class: { id }, score, mask }) => ({
      image_id: picture + 1,
      category_id: classes.findIndex((each) => each.id === id) + 1,
      segmentation: form === "rle" ? mask.rle : polygonsOf(mask, epsilon).map((ring) => ring.flat()),
      area: mask.area,
      bbox: mask.box,
      iscrowd: 0,
      score,
    })),
  );
  return {
    images: pictures.map(({ name, width, height }, i) => ({ id: i + 1, file_name: name, width, height })),
    categories: classes.map(({ name }, i) => ({ id: i + 1, name, supercategory: "" })),
    annotations: annotations.map((each, i) => ({ id: i + 1, ...each })),
  };
}

/** Text that is both JSON and YAML, which rejects these characters or takes them for line breaks. */
export const yamlString = (value) =>
  JSON.stringify(value).replace(
    /[\x7f-\x9f\u2028\u2029\ufeff\ufffe\uffff]/g,
    (each) => `\\u${each.charCodeAt(0).toString(16).padStart(4, "0")}`,
  );

/** YOLO's segmentation labels: a text per picture, a line per mask, and the list of classes. */
function yolo(pictures, { classes, epsilon }) {
  const names = stems(pictures);
  const files = pictures.map(({ width, height, found }, picture) => {
    const lines = found.map(({ class: { id }, mask }) => {
      const share = (value, side) => Number((value / side).toFixed(MAX_DIGITS));
      const points = polygonOf(mask, epsilon).flatMap(([x, y]) => [share(x, width), share(y, height)]);
      return [classes.findIndex((each) => each.id === id), ...points].join(" ");
    });
    return { name: `labels/${names[picture]}.txt`, bytes: text(lines.map((line) => `${line}\n`).join("")) };
  });
  const listed = classes.map(({ name }, i) => `  ${i}: ${yamlString(name)}\n`).join("");
  const yaml = `path: .\ntrain: images\nval: images\nnames:\n${listed}`;
  return zip([{ name: "data.yaml", bytes: text(yaml) }, ...files]);
}

/** A PNG per mask. */
async function pngs(pictures) {
  const names = stems(pictures);
  const files = [];
  for (const [index, picture] of pictures.entries()) {
    for (const [number, { class: { name }, mask }] of picture.found.entries()) {
      const made = await maskPng([mask], picture.width, picture.height);
      const label = safePath(name).replaceAll("/", "_");
      const file = `${names[index]}/${String(number + 1).padStart(3, "0")}-${label}.png`;
      files.push({ name: file, bytes: new Uint8Array(await made.arrayBuffer()) });
    }
  }
  return zip(files);
}

/** The prompts with their masks, from which the page can go on. */
function own(pictures, { classes }) {
  const prompt = (picture, each) => {
    const found = picture.found.filter((one) => one.prompt === each);
    return {
      name: each.name,
      class: found[0].class.name,
      model: found[0].model,
      ...sentPrompt(each),
      predictions: found.map(({ score, mask }) => ({ format: "rle", confidence: score, masks: mask.rle })),
    };
  };
  return {
    format: FORMAT,
    classes: classes.map(({ name, colour }) => ({ name, colour })),
    images: pictures.map((picture) => ({
      name: picture.name,
      width: picture.width,
      height: picture.height,
      prompts: [...new Set(picture.found.map((each) => each.prompt))].map((each) => prompt(picture, each)),
    })),
  };
}

/** The image with its masks drawn over it, at full size. */
function overlay([picture], { look, image }) {
  const canvas = new OffscreenCanvas(picture.width, picture.height);
  const context = canvas.getContext("2d");
  context.drawImage(image, 0, 0);
  const unit = Math.max(1, Math.max(picture.width, picture.height) / 1000);
  paintMasks(context, picture.found, 1, { unit, opacity: look.opacity, outline: look.outline });
  if (look.labels) paintLabels(context, picture.found, 1, { unit });
  return canvas.convertToBlob({ type: "image/png" });
}

const union = ([{ found, width, height }]) => maskPng(found.map((each) => each.mask), width, height);

/** `isOne`: about the picture that is shown, whatever the scope. */
const FORMS = {
  json: { make: (...all) => jsonBlob(own(...all)), ending: "masks.json" },
  coco: { make: (...all) => jsonBlob(coco(...all)), ending: "coco.json" },
  yolo: { make: yolo, ending: "yolo.zip" },
  pngs: { make: pngs, ending: "masks.zip" },
  overlay: { make: overlay, ending: "overlay.png", isOne: true },
  mask: { make: union, ending: "mask.png", isOne: true },
};

/** The masks of a document as they are exported. */
const labelled = ({ name, width, height }, document, settings) => ({
  name,
  width,
  height,
  found: document?.shown(settings) ?? [],
});

/**
 * Download masks as a file.
 *
 * @param {import("./session.js").Session} session
 * @param {keyof typeof FORMS} form
 * @returns {Promise<string>} name of the file.
 */
export async function download(session, form) {
  const { project, picture } = session;
  const { settings, classes, entries } = project;
  const { make, ending, isOne } = FORMS[form];
  const isAll = settings.scope === "all" && !isOne && entries.length > 1;
  const pictures = [];
  for (const entry of isAll ? entries : [picture]) {
    if (!entry.width) continue;
    const isShown = entry.id === picture.id;
    const document = isShown ? session.document : await project.document(entry.id);
    pictures.push(labelled(entry, document, settings));
  }
  const { epsilon, coco: masks } = settings;
  const options = { classes: classes.list, epsilon, coco: masks, look: settings, image: picture.image };
  const blob = await make(pictures, options);
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = `${isAll ? "pictures" : stem(safePath(picture.name)).replaceAll("/", "-")}-${ending}`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
  return link.download;
}

/** Number of points of all polygons of masks. */
export const pointsOf = (found, epsilon) =>
  found.reduce((sum, { mask }) => sum + polygonsOf(mask, epsilon).reduce((all, ring) => all + ring.length, 0), 0);
