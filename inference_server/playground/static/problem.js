/** Errors as the page shows them: what happened, the server's message, what to do. */

import { key } from "./key.js";

/** Title and remedy by status code; the server's message is shown between them. */
const WORDS = {
  400: ["Invalid image", "Open another JPEG, PNG or WebP file."],
  401: ["API key required", "Enter a valid API key for this server."],
  402: ["Insufficient credits", "Ask the operator of the server for more credits, or enter another key."],
  403: ["Access denied", "Enter an API key with the scope “segment”."],
  404: ["Not found", "Open the image again."],
  406: ["Insufficient credits", "Ask the operator of the server for more credits, or enter another key."],
  413: ["Image too large", "Send a smaller copy, or raise the limit on the server."],
  422: ["Invalid request", "Change the prompt."],
  429: ["Server busy", "Wait a moment and retry."],
  500: ["Internal server error", "Retry; see the server log for details."],
  503: ["Model unavailable", "Wait until the model is loaded, or follow the message."],
  504: ["Timeout", "Retry when the server is less busy."],
};

const WRONG_KEY = "Wrong API key";

/** Statuses for which the same request would fail again. */
const FINAL = [400, 404, 413, 422];

/** An error with a title, details and a remedy. */
export class Problem extends Error {
  /**
   * @param {string} title what happened.
   * @param {string} text details.
   * @param {string} remedy what to do.
   * @param {number} status HTTP status code; 0 without a response.
   * @param {boolean} isFinal whether it would happen again.
   */
  constructor(title, text, remedy, status = 0, isFinal = FINAL.includes(status)) {
    super(title);
    this.title = title;
    this.text = text;
    this.remedy = remedy;
    this.status = status;
    this.isFinal = isFinal;
  }

  /** Whether the server refused the key that was sent. */
  get isWrongKey() {
    return this.title === WRONG_KEY;
  }

  /** Whether a smaller image may help. */
  get wantsSmaller() {
    return this.status === 413;
  }

  /** Whether another API key may help. */
  get wantsKey() {
    return [401, 402, 403, 406].includes(this.status);
  }

  /** @param {string} origin origin of the server. */
  static unreachable(origin) {
    return new Problem(
      "Server unreachable",
      `Cannot connect to ${origin}.`,
      "Check that the server is running, then retry.",
    );
  }

  /**
   * @param {number} status of an error response.
   * @param {string} body text of the response.
   * @param {string | null} retryAfter header with the seconds to wait.
   */
  static of(status, body, retryAfter = null) {
    const [title, remedy] = WORDS[status] ?? [`Error ${status}`, "Change the request and retry."];
    const seconds = Number(retryAfter);
    const wait = status === 429 && seconds > 0 ? `Retry in ${seconds} s.` : remedy;
    if (status === 401 && key()) {
      return new Problem(WRONG_KEY, "The server does not accept this key.", remedy, status);
    }
    return new Problem(title, messageOf(body), wait, status);
  }
}

/** Extract the message from any of the server's error formats. */
function messageOf(body) {
  let content;
  try {
    content = JSON.parse(body);
  } catch {
    return "";
  }
  const message = content.message ?? content.detail ?? content.error ?? "";
  if (!Array.isArray(message)) return String(message);
  return message
    .slice(0, 3)
    .map(({ loc = [], msg }) => `${loc.slice(1).join(".")}: ${msg}`)
    .join("; ");
}
