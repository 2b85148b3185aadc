/**
 * Labels from files: the page's own JSON, or COCO.
 *
 * Everything is checked before anything is added, so that a bad file changes nothing.
 *
 * @typedef {object} Labels of one picture.
 * @property {string} name
 * @property {number} width
 * @property {number} height
 * @property {() => (document: Document) => void} prepare checks the labels; the function that it
 *   returns adds them.
 */

import { Document } from "./document.js";
import { FORMAT } from "./exports.js";
import { Mask } from "./masks.js";
import { maskOf } from "./polygons.js";
import { Problem } from "./problem.js";
import * as prompts from "./prompts.js";

/** Longest side of a picture whose pixels 32-bit RLE can count. */
const MAX_SIDE = 32_768;

const REMEDY = "Repair the file, or export it again.";

/** What is wrong with a file; `addLabels` adds its name. */
class Fault extends Error {}

function check(isValid, what) {
  if (!isValid) throw new Fault(what);
}

const isObject = (value) => typeof value === "object" && value !== null && !Array.isArray(value);
const isSide = (value) => Number.isInteger(value) && value > 0 && value <= MAX_SIDE;
const isName = (value) => typeof value === "string" && value.trim() !== "";
const areNumbers = (values) => values.every((each) => Number.isFinite(each));

/** Check that entries are objects, and each of them by a function. */
function checkEach(list, where, one = () => {}) {
  check(Array.isArray(list), `${where} is not a list`);
  list.forEach((each, i) => {
    check(isObject(each), `${where}[${i}] is not an object`);
    one(each, `${where}[${i}]`);
  });
}

function checkSides({ width, height }, where) {
  check(isSide(width) && isSide(height), `${where} needs width and height`);
}

/** The mask of an RLE, whose runs must be in the picture. */
function maskOfRle(rle, height, width, where) {
  check(isObject(rle), `${where} is neither polygons nor RLE`);
  const { size = [height, width], counts } = rle;
  const isSame = Array.isArray(size) && size[0] === height && size[1] === width;
  check(isSame, `${where}.size is not that of the picture`);
  if (Array.isArray(counts)) {
    const spans = [];
    let at = 0;
    counts.forEach((run, i) => {
      check(Number.isInteger(run) && run >= 0, `${where}.counts[${i}] is not a number of pixels`);
      if (i % 2 && run) spans.push(at, at + run);
      at += run;
      check(at <= height * width, `${where}.counts exceed the picture`);
    });
    return Mask.fromSpans(spans, height, width);
  }
  check(typeof counts === "string" && /^[0-o]*$/.test(counts), `${where}.counts is not RLE`);
  const mask = Mask.of({ size: [height, width], counts });
  const { spans } = mask;
  const isInside = spans.every((at, i) => at >= (i ? spans[i - 1] : 0) && at <= height * width);
  check(isInside, `${where}.counts exceed the picture`);
  return mask;
}

/** The mask of a COCO segmentation: polygons, or RLE with its runs as text or as a list. */
function maskOfCoco(segmentation, height, width, where) {
  if (!Array.isArray(segmentation)) return maskOfRle(segmentation, height, width, where);
  const rings = segmentation.map((flat, i) => {
    const isRing = Array.isArray(flat) && flat.length % 2 === 0 && areNumbers(flat);
    check(isRing, `${where}[${i}] is not a list of x and y`);
    return Array.from({ length: flat.length / 2 }, (_, j) => [flat[2 * j], flat[2 * j + 1]]);
  });
  return maskOf(rings.map((ring) => [ring]), height, width);
}

/** @returns {Labels[]} */
function ofCoco({ images, annotations, categories }, classes) {
  checkEach(categories, "categories", ({ name }, where) => {
    check(isName(name) || Number.isFinite(name), `${where} has no name`);
  });
  checkEach(images, "images", (image, where) => {
    check(isName(image.file_name), `${where} has no file_name`);
    checkSides(image, where);
  });
  const ofImage = new Map();
  checkEach(annotations, "annotations", (each, where) => {
    check(Number.isFinite(each.score ?? 1), `${where}.score is not a number`);
    if ((each.segmentation ?? null) === null) return;
    const own = ofImage.get(each.image_id) ?? [];
    own.push({ ...each, where: `${where}.segmentation` });
    ofImage.set(each.image_id, own);
  });
  const names = new Map(categories.map(({ id, name }) => [id, String(name)]));
  return images.map(({ id, file_name: name, width, height }) => ({
    name,
    width,
    height,
    prepare: () => {
      const found = (ofImage.get(id) ?? [])
        .map((each) => ({ ...each, mask: maskOfCoco(each.segmentation, height, width, each.where) }))
        .filter(({ mask }) => mask.area);
      return (document) => {
        let list = document.prompts;
        for (const { mask, score, category_id: category } of found) {
          const { id: classId } = classes.add(names.get(category) ?? "object");
          list = [...list, prompts.objectOfMask({ mask, score: score ?? 1, model: "" }, classId, list)];
        }
        document.edit({ prompts: list, selected: null, instance: null });
      };
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

/** Check a prompt of an own file and the masks that it found. */
function checkPrompt(each, { width, height }, where) {
  check(isName(each.class), `${where} has no class`);
  checkEach(each.predictions, `${where}.predictions`, ({ confidence, masks }, found) => {
    check(Number.isFinite(confidence), `${found} has no confidence`);
    const isText = Array.isArray(masks?.size) && typeof masks.counts === "string";
    check(isText, `${found}.masks is not RLE`);
    maskOfRle(masks, height, width, `${found}.masks`);
  });
  if (each.type === "text") {
    check(isName(each.text), `${where} has no text`);
  } else if (each.type === "visual") {
    checkEach(each.boxes, `${where}.boxes`, ({ x0, y0, x1, y1 }, box) => {
      check(areNumbers([x0, y0, x1, y1]), `${box} needs x0, y0, x1 and y1`);
    });
    const { boxes, box_labels: signs } = each;
    const isSigned = Array.isArray(signs) && signs.length === boxes.length && boxes.length > 0;
    check(isSigned, `${where} needs boxes, and a box_label for each`);
  } else {
    checkEach(each.points === undefined ? [] : each.points, `${where}.points`, ({ x, y }, point) => {
      check(areNumbers([x, y]), `${point} needs x and y`);
    });
    const { box = null, predictions } = each;
    const isBox = isObject(box) && areNumbers([box.x, box.y, box.width, box.height]);
    check(box === null || isBox, `${where}.box needs x, y, width and height`);
    check(predictions.length > 0, `${where}.predictions is empty`);
  }
}

/** @returns {Labels[]} */
function ofOwn({ images, classes: listed }, classes) {
  checkEach(listed, "classes", ({ name, colour }, where) => {
    check(isName(name), `${where} has no name`);
    check(/^#[0-9a-f]{6}$/i.test(colour), `${where}.colour is not #rrggbb`);
  });
  checkEach(images, "images", (image, where) => {
    check(isName(image.name), `${where} has no name`);
    checkSides(image, where);
    checkEach(image.prompts, `${where}.prompts`);
  });
  const addClasses = () => {
    for (const { name, colour } of listed) {
      const known = classes.named(name);
      if (!known) classes.recolour(classes.add(name).id, colour);
    }
  };
  return images.map(({ name, width, height, prompts: stored }, number) => ({
    name,
    width,
    height,
    prepare: () => {
      stored.forEach((each, i) => {
        checkPrompt(each, { width, height }, `images[${number}].prompts[${i}]`);
      });
      return (document) => {
        addClasses();
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
      };
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
  const make = await read(file);
  try {
    return await addAll(session, make(project.classes));
  } catch (fault) {
    if (!(fault instanceof Fault)) throw fault;
    throw new Problem("Invalid labels", `${file.name}: ${fault.message}.`, REMEDY, 0, true);
  }
}

/** Check the labels of all open pictures, then add them. @param {Labels[]} all */
async function addAll(session, all) {
  const { project } = session;
  let skipped = 0;
  const ready = [];
  for (const { name, width, height, prepare } of all) {
    const entry =
      project.entries.find((each) => each.name === name) ??
      project.entries.find((each) => base(each.name) === base(name));
    if (!entry || (entry.width && (entry.width !== width || entry.height !== height))) {
      skipped += 1;
      continue;
    }
    ready.push([entry, prepare()]);
  }
  for (const [entry, add] of ready) {
    const isShown = entry.id === session.picture?.id;
    const document = isShown ? session.document : ((await project.document(entry.id)) ?? new Document(project.classes));
    add(document);
    if (isShown) session.edited();
    else project.save(entry.id, document);
  }
  project.set();
  const rest = skipped ? ` ${skipped} more are not open here, or have another size: open them first.` : "";
  return `Added the labels of ${ready.length} of ${all.length} pictures.${rest}`;
}
