/**
 * Labels from files: the page's own JSON, or COCO.
 *
 * @typedef {{name: string, width: number, height: number, add: (document: Document) => void}} Labels
 *   of one picture.
 */

import { Document } from "./document.js";
import { FORMAT } from "./exports.js";
import { Mask } from "./masks.js";
import { maskOf } from "./polygons.js";
import { Problem } from "./problem.js";
import * as prompts from "./prompts.js";

/** The mask of a COCO segmentation: polygons, or RLE with its runs as text or as a list. */
function maskOfCoco(segmentation, height, width) {
  if (Array.isArray(segmentation)) {
    const rings = segmentation.map((flat) =>
      Array.from({ length: flat.length / 2 }, (_, i) => [flat[2 * i], flat[2 * i + 1]]),
    );
    return maskOf(rings.map((ring) => [ring]), height, width);
  }
  const { counts } = segmentation;
  if (typeof counts === "string") return Mask.of({ size: [height, width], counts });
  const spans = [];
  let at = 0;
  counts.forEach((run, i) => {
    if (i % 2 && run) spans.push(at, at + run);
    at += run;
  });
  return Mask.fromSpans(spans, height, width);
}

/** @returns {Labels[]} */
function ofCoco({ images, annotations, categories }, classes) {
  const names = new Map(categories.map(({ id, name }) => [id, String(name)]));
  return images.map(({ id, file_name: name, width, height }) => ({
    name,
    width,
    height,
    add: (document) => {
      let list = document.prompts;
      for (const each of annotations.filter((one) => one.image_id === id && one.segmentation)) {
        const mask = maskOfCoco(each.segmentation, height, width);
        if (!mask.area) continue;
        const { id: classId } = classes.add(names.get(each.category_id) ?? "object");
        const known = { mask, score: each.score ?? 1, model: "" };
        list = [...list, prompts.objectOfMask(known, classId, list)];
      }
      document.edit({ prompts: list, selected: null, instance: null });
    },
  }));
}

/** The prompt of an own file. */
function promptOf({ type, text, boxes, box_labels: signs, points = [], box, predictions }, classId, list) {
  if (type === "text") return prompts.conceptOf(text, classId);
  if (type === "visual") {
    const [first, ...rest] = boxes.map((each, i) => ({ ...each, positive: signs[i] === 1 }));
    const example = prompts.exampleOf(first, classId, list);
    return Object.freeze({ ...example, boxes: [first, ...rest] });
  }
  const corners = box && {
    x0: box.x - box.width / 2,
    y0: box.y - box.height / 2,
    x1: box.x + box.width / 2,
    y1: box.y + box.height / 2,
    positive: true,
  };
  const object = prompts.objectOf(points, corners ?? null, classId, list);
  const [found] = predictions;
  // The mask is known, so a model that is another one today does not change it.
  return Object.freeze({ ...object, fixed: { rle: found.masks, score: found.confidence, model: "" } });
}

/** @returns {Labels[]} */
function ofOwn({ images, classes: listed }, classes) {
  for (const { name, colour } of listed) {
    const known = classes.named(name);
    if (!known) classes.recolour(classes.add(name).id, colour);
  }
  return images.map(({ name, width, height, prompts: stored }) => ({
    name,
    width,
    height,
    add: (document) => {
      let list = document.prompts;
      for (const each of stored) {
        const { id } = classes.add(each.class);
        const isKnown = each.type === "text" && list.some((one) => one.text === each.text);
        const made = isKnown ? null : promptOf(each, id, list);
        if (!made) continue;
        list = [...list, made];
        if (made.kind === "object") continue;
        const results = each.predictions.map(({ confidence, masks }) => ({
          score: confidence,
          rle: masks,
          model: each.model,
        }));
        document.receiver(made)(results);
      }
      document.edit({ prompts: list, selected: null, instance: null });
    },
  }));
}

/** Read a file of labels. @returns {Promise<(classes) => Labels[]>} */
async function read(file) {
  let content;
  try {
    content = JSON.parse(await file.text());
  } catch {
    content = {};
  }
  if (content?.format === FORMAT) return (classes) => ofOwn(content, classes);
  const isCoco = ["images", "annotations", "categories"].every((name) => Array.isArray(content?.[name]));
  if (isCoco) return (classes) => ofCoco(content, classes);
  throw new Problem("Unknown labels", file.name, "Open a COCO file, or JSON from this page.", 0, true);
}

const base = (name) => name.split(/[/\\]/).at(-1);

/**
 * Add the labels of a file to the pictures of the strip that it names.
 *
 * @param {import("./session.js").Session} session
 * @param {File} file
 * @returns {Promise<string>} what was done.
 * @throws {Problem} if the file has no labels.
 */
export async function addLabels(session, file) {
  const { project } = session;
  const all = (await read(file))(project.classes);
  let [added, skipped] = [0, 0];
  for (const { name, width, height, add } of all) {
    const entry =
      project.entries.find((each) => each.name === name) ??
      project.entries.find((each) => base(each.name) === base(name));
    if (!entry || (entry.width && (entry.width !== width || entry.height !== height))) {
      skipped += 1;
      continue;
    }
    const isShown = entry.id === session.picture?.id;
    const document = isShown ? session.document : ((await project.document(entry.id)) ?? new Document(project.classes));
    add(document);
    if (isShown) session.edited();
    else project.save(entry.id, document);
    added += 1;
  }
  project.set();
  const rest = skipped ? ` ${skipped} more are not open here, or have another size: open them first.` : "";
  return `Added the labels of ${added} of ${all.length} pictures.${rest}`;
}
