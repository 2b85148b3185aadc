/** Download the visible masks as JSON, COCO or PNG. */

import { sentPrompt } from "./prompts.js";
import { paintMasks, paintScores } from "./paint.js";

const stem = (name) => name.replace(/\.[^.]*$/, "") || "image";

/** The prompts with their predictions. */
function json({ picture, found, session }) {
  const prompts = [...new Set(found.map((each) => each.prompt))];
  return {
    image: { name: picture.name, width: picture.width, height: picture.height },
    output_prob_thresh: session.threshold,
    nms_iou_threshold: session.overlap < 1 ? session.overlap : null,
    prompts: prompts.map((prompt) => ({
      name: prompt.name,
      model: found.find((each) => each.prompt === prompt).model,
      ...sentPrompt(prompt),
      predictions: found
        .filter((each) => each.prompt === prompt)
        .map(({ score, mask }) => ({ format: "rle", confidence: score, masks: mask.rle })),
    })),
  };
}

/** A COCO data set of one image, with one category per prompt. */
function coco({ picture, found }) {
  const names = [...new Set(found.map((each) => each.prompt.name))];
  return {
    images: [{ id: 1, file_name: picture.name, width: picture.width, height: picture.height }],
    categories: names.map((name, index) => ({ id: index + 1, name, supercategory: "" })),
    annotations: found.map(({ prompt, score, mask }, index) => ({
      id: index + 1,
      image_id: 1,
      category_id: names.indexOf(prompt.name) + 1,
      segmentation: mask.rle,
      area: mask.area,
      bbox: mask.box,
      iscrowd: 0,
      score,
    })),
  };
}

function canvasOf(picture) {
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [picture.width, picture.height];
  return canvas;
}

/** The image with its masks drawn over it, at full size. */
function overlay({ picture, found }) {
  const canvas = canvasOf(picture);
  const context = canvas.getContext("2d");
  context.drawImage(picture.image, 0, 0);
  const unit = Math.max(1, Math.max(picture.width, picture.height) / 1000);
  paintMasks(context, found, 1, { unit });
  paintScores(context, found, 1, { unit });
  return canvas;
}

/** The union of all masks, white on black. */
function mask({ picture, found }) {
  const canvas = canvasOf(picture);
  const context = canvas.getContext("2d");
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.imageSmoothingEnabled = false;
  for (const each of found) {
    context.drawImage(each.mask.raster([255, 255, 255]), ...each.mask.box);
  }
  return canvas;
}

const FORMS = {
  json: { make: json, ending: "masks.json" },
  coco: { make: coco, ending: "coco.json" },
  overlay: { make: overlay, ending: "overlay.png" },
  mask: { make: mask, ending: "mask.png" },
};

/**
 * Download the visible masks as a file.
 *
 * @param {import("./session.js").Session} session
 * @param {keyof typeof FORMS} form
 * @returns {Promise<string>} name of the file.
 */
export async function download(session, form) {
  const { picture } = session;
  const made = FORMS[form].make({ picture, found: session.shown(), session });
  const blob =
    made instanceof HTMLCanvasElement
      ? await new Promise((resolve) => made.toBlob(resolve, "image/png"))
      : new Blob([`${JSON.stringify(made, null, 1)}\n`], { type: "application/json" });
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = `${stem(picture.name)}-${FORMS[form].ending}`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
  return link.download;
}
