/**
 * Prompts: what they are, what they are called, and how a request says them. They never change;
 * an edit makes another one with the same `id`.
 *
 * @typedef {{x: number, y: number, positive: boolean}} Point in pixels of the picture.
 * @typedef {{x0: number, y0: number, x1: number, y1: number, positive: boolean}} Box likewise.
 * @typedef {object} Prompt
 * @property {number} id
 * @property {"concept" | "example" | "object"} kind
 * @property {string} name
 * @property {string} colour
 * @property {string} [text] of a concept.
 * @property {Box[]} [boxes] of an example.
 * @property {Point[]} [points] of an object.
 * @property {Box | null} [box] of an object.
 */

const COLOURS = [
  ...["#8f7dff", "#19c3e6", "#ff4fa3", "#9be22d", "#ff9a1f", "#22d3a7"],
  ...["#f4485e", "#f2cf1d", "#5aa2ff", "#d37bff", "#4ade80", "#ff8a7a"],
];

let made = 0;

/** @returns {Prompt} */
function prompt(kind, name, colour, rest) {
  made += 1;
  return Object.freeze({ id: made, kind, name, colour, ...rest });
}

/** The first colour that no prompt has. */
function free(prompts) {
  const taken = new Set(prompts.map((each) => each.colour));
  return COLOURS.find((colour) => !taken.has(colour)) ?? COLOURS[prompts.length % COLOURS.length];
}

/** The next name of a kind: `Object 2`. */
function numbered(prompts, word) {
  const numbers = prompts.map((each) => Number(each.name.match(`^${word} (\\d+)$`)?.[1] ?? 0));
  return `${word} ${Math.max(0, ...numbers) + 1}`;
}

export const conceptOf = (text, prompts) => prompt("concept", text, free(prompts), { text });

export const exampleOf = (box, prompts) =>
  prompt("example", numbered(prompts, "Example"), free(prompts), { boxes: [box] });

export const objectOf = (points, box, prompts) =>
  prompt("object", numbered(prompts, "Object"), free(prompts), { points, box });

/** Whether SAM 3 answers a prompt, and not SAM 2. */
export const isConcept = (each) => each.kind !== "object";

/** Whether the best of SAM 2's three candidates is to be chosen: one click may mean many things. */
const isAmbiguous = (each) => each.points.length + (each.box ? 1 : 0) < 2;

/** A prompt as a request says it. */
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
    // SAM 2's boxes are told by their centre.
    sent.box = { x: (x0 + x1) / 2, y: (y0 + y1) / 2, width: x1 - x0, height: y1 - y0 };
  }
  if (each.points.length) sent.points = each.points.map(({ x, y, positive }) => ({ x, y, positive }));
  return sent;
}

/**
 * The body of a request for concepts and examples, without the picture.
 *
 * @param {Prompt[]} prompts
 * @param {number} threshold least confidence.
 * @param {number} overlap most IoU of two masks; from 1 on all are kept.
 */
export function conceptRequest(prompts, threshold, overlap = 1) {
  const body = { prompts: prompts.map(sentPrompt), format: "rle", output_prob_thresh: threshold };
  return overlap < 1 ? { ...body, nms_iou_threshold: overlap } : body;
}

/**
 * The body of a request for an object, without the picture. A further click starts from the answer
 * to the earlier ones, which the server keeps.
 *
 * @param {Prompt} each
 * @param {string} version size of SAM 2; empty is the server's own choice.
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

/** What the answer to a prompt depends on. */
export const identity = (each) => JSON.stringify(sentPrompt(each));
