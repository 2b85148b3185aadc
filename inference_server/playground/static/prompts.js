/**
 * Prompts and their form in requests. Prompts are immutable; an edit creates a new prompt with the
 * same `id`.
 *
 * @typedef {{x: number, y: number, positive: boolean}} Point in image pixels.
 * @typedef {{x0: number, y0: number, x1: number, y1: number, positive: boolean}} Box in image pixels.
 * @typedef {object} Prompt
 * @property {number} id
 * @property {"concept" | "example" | "object"} kind
 * @property {string} name
 * @property {string} colour
 * @property {string} [text] for concepts.
 * @property {Box[]} [boxes] for examples.
 * @property {Point[]} [points] for objects.
 * @property {Box | null} [box] for objects.
 */

const COLOURS = [
  ...["#8f7dff", "#19c3e6", "#ff4fa3", "#9be22d", "#ff9a1f", "#22d3a7"],
  ...["#f4485e", "#f2cf1d", "#5aa2ff", "#d37bff", "#4ade80", "#ff8a7a"],
];

let lastId = 0;

/** @returns {Prompt} */
function prompt(kind, name, colour, rest) {
  lastId += 1;
  return Object.freeze({ id: lastId, kind, name, colour, ...rest });
}

/** The first colour that no prompt uses. */
function free(prompts) {
  const taken = new Set(prompts.map((each) => each.colour));
  return COLOURS.find((colour) => !taken.has(colour)) ?? COLOURS[prompts.length % COLOURS.length];
}

/** The next default name, such as `Object 2`. */
function numbered(prompts, word) {
  const numbers = prompts.map((each) => Number(each.name.match(`^${word} (\\d+)$`)?.[1] ?? 0));
  return `${word} ${Math.max(0, ...numbers) + 1}`;
}

export const conceptOf = (text, prompts) => prompt("concept", text, free(prompts), { text });

export const exampleOf = (box, prompts) =>
  prompt("example", numbered(prompts, "Example"), free(prompts), { boxes: [box] });

export const objectOf = (points, box, prompts) =>
  prompt("object", numbered(prompts, "Object"), free(prompts), { points, box });

/** Whether a prompt finds all instances (otherwise it selects one object). */
export const isConcept = (each) => each.kind !== "object";

/** Whether to ask for the best of three masks: a single click or box is ambiguous. */
const isAmbiguous = (each) => each.points.length + (each.box ? 1 : 0) < 2;

/** The prompt in the form of a request. */
export function sentPrompt(each) {
  if (each.kind === "concept") return { type: "text", text: each.text };
  if (each.kind === "example") {
    return {
      type: "visual",
      boxes: each.boxes.map(({ x0, y0, x1, y1 }) => ({ x0, y0, x1, y1 })),
      box_labels: each.boxes.map(({ positive }) => (positive ? 1 : 0)),
    };
  }
  const sent = {};
  if (each.box) {
    const { x0, y0, x1, y1 } = each.box;
    // In these requests, `x, y` is the centre of the box.
    sent.box = { x: (x0 + x1) / 2, y: (y0 + y1) / 2, width: x1 - x0, height: y1 - y0 };
  }
  if (each.points.length) sent.points = each.points.map(({ x, y, positive }) => ({ x, y, positive }));
  return sent;
}

/**
 * The body of a request for concepts and examples, without the image.
 *
 * @param {Prompt[]} prompts
 * @param {number} threshold minimum confidence.
 * @param {number} overlap maximum IoU of two masks; 1 keeps all.
 */
export function conceptRequest(prompts, threshold, overlap = 1) {
  const body = { prompts: prompts.map(sentPrompt), format: "rle", output_prob_thresh: threshold };
  return overlap < 1 ? { ...body, nms_iou_threshold: overlap } : body;
}

/**
 * The body of a request for an object, without the image. The server refines the cached logits of
 * the earlier clicks.
 *
 * @param {Prompt} each
 * @param {string} version SAM 2 model size; empty for the server's choice.
 */
export function objectRequest(each, version) {
  return {
    prompts: [sentPrompt(each)],
    format: "rle",
    multimask_output: isAmbiguous(each),
    save_logits_to_cache: true,
    load_logits_from_cache: true,
    ...(version ? { sam2_version_id: version } : {}),
  };
}

/** The endpoint for objects. @param {string} version see `objectRequest`. */
export const objectPath = (version) => (version ? "sam2/segment_image" : "sam3/visual_segment");

/** Cache key: prompts with the same key have the same result. */
export const identity = (each) => JSON.stringify(sentPrompt(each));
