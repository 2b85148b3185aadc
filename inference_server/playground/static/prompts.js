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
 * @property {number} classId
 * @property {string} [text] for concepts.
 * @property {Box[]} [boxes] for examples.
 * @property {Point[]} [points] for objects.
 * @property {Box | null} [box] for objects.
 * @property {{rle: object, score: number, model: string}} [fixed] for objects whose mask is known,
 *   so that nothing is requested until the next click.
 */

let lastId = 0;

/** Make new ids differ from those of stored prompts. @param {Prompt[]} prompts */
export function reserve(prompts) {
  lastId = Math.max(lastId, ...prompts.map((each) => each.id));
}

/** @returns {Prompt} */
function prompt(kind, name, classId, rest) {
  lastId += 1;
  return Object.freeze({ id: lastId, kind, name, classId, ...rest });
}

/** The next default name, such as `Object 2`. */
function numbered(prompts, word) {
  const numbers = prompts.map((each) => Number(each.name.match(`^${word} (\\d+)$`)?.[1] ?? 0));
  return `${word} ${Math.max(0, ...numbers) + 1}`;
}

export const conceptOf = (text, classId) => prompt("concept", text, classId, { text });

export const exampleOf = (box, classId, prompts) =>
  prompt("example", numbered(prompts, "Example"), classId, { boxes: [box] });

export const objectOf = (points, box, classId, prompts) =>
  prompt("object", numbered(prompts, "Object"), classId, { points, box });

/** An object with a known mask; its box starts the refinement. */
export function objectOfMask({ mask, score, model }, classId, prompts) {
  const [x, y, width, height] = mask.box;
  const box = { x0: x, y0: y, x1: x + width, y1: y + height, positive: true };
  const fixed = { rle: mask.rle, score, model };
  return prompt("object", numbered(prompts, "Object"), classId, { points: [], box, fixed });
}

/** The box between two corners. */
export function between(a, b) {
  return {
    x0: Math.min(a.x, b.x),
    y0: Math.min(a.y, b.y),
    x1: Math.max(a.x, b.x),
    y1: Math.max(a.y, b.y),
    positive: true,
  };
}

/** Add a click to an object; a positive one outside the box of a known mask enlarges the box. */
export function withPoint({ fixed, ...each }, point) {
  const { box } = each;
  const wider = fixed && box && point.positive && {
    x0: Math.min(box.x0, point.x),
    y0: Math.min(box.y0, point.y),
    x1: Math.max(box.x1, point.x),
    y1: Math.max(box.y1, point.y),
    positive: true,
  };
  return { ...each, box: wider || box, points: [...each.points, point] };
}

/** Whether a prompt finds all instances (otherwise it selects one object). */
export const isConcept = (each) => each.kind !== "object";

/** Whether to ask for the best of three masks: a single click or box is ambiguous. */
export const isAmbiguous = (each) => each.points.length + (each.box ? 1 : 0) < 2;

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

/** The body of a request for the mask under the pointer, which leaves nothing on the server. */
export function previewRequest(point, version) {
  const { save_logits_to_cache: _, load_logits_from_cache: __, ...body } = objectRequest(
    { kind: "object", points: [point], box: null },
    version,
  );
  return body;
}

/** The endpoint for objects. @param {string} version see `objectRequest`. */
export const objectPath = (version) => (version ? "sam2/segment_image" : "sam3/visual_segment");

/** Cache key: prompts with the same key have the same result. */
export const identity = (each) => JSON.stringify(sentPrompt(each));
