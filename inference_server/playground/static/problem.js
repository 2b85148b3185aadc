/** Problems in words: what happened, what the server says, and what to do. */

/** What happened and what helps, by status; the server's own message stands between. */
const WORDS = {
  400: ["The picture cannot be used", "Open another one, as JPEG, PNG or WebP."],
  401: ["The server wants an API key", "Enter a key that this server knows."],
  402: ["The key has no credits left", "Ask the server's owner for more, or enter another key."],
  403: ["The key may not do this", "Enter a key that has the scope “segment”."],
  404: ["The server does not know this", "Open the picture again."],
  406: ["The key has no credits left", "Ask the server's owner for more, or enter another key."],
  413: ["The picture is too large", "Use a smaller one, or raise the limit that is named."],
  422: ["The request is not valid", "Change the prompt that is named."],
  429: ["The server is busy", "Wait a moment and try again."],
  500: ["Something failed in the server", "Try again; the server's log tells more."],
  503: ["The model cannot be used now", "Wait until it is loaded, or do what the message says."],
  504: ["The server took too long", "Try again when it is less busy."],
};

/** An error as the page shows it. */
export class Problem extends Error {
  /**
   * @param {string} title what happened.
   * @param {string} text what exactly.
   * @param {string} remedy what to do.
   * @param {number} status of the answer; 0 if there was none.
   */
  constructor(title, text, remedy, status = 0) {
    super(title);
    this.title = title;
    this.text = text;
    this.remedy = remedy;
    this.status = status;
  }

  /** Whether another key would help. */
  get wantsKey() {
    return [401, 402, 403, 406].includes(this.status);
  }

  /** @param {string} origin where the server was. */
  static unreachable(origin) {
    return new Problem(
      "The server does not answer",
      `There is no connection to ${origin}.`,
      "See whether it still runs, and try again.",
    );
  }

  /**
   * @param {Response} response an error.
   * @param {string} body its text.
   */
  static of(response, body) {
    const { status } = response;
    const [title, remedy] = WORDS[status] ?? ["The server refused", "Try something else."];
    const seconds = Number(response.headers.get("retry-after"));
    const wait = status === 429 && seconds > 0 ? `Try again in ${seconds} s.` : remedy;
    return new Problem(title, messageOf(body), wait, status);
  }
}

/** The server's message, in any of the forms in which it words errors. */
function messageOf(body) {
  let answer;
  try {
    answer = JSON.parse(body);
  } catch {
    return "";
  }
  const told = answer.message ?? answer.detail ?? answer.error ?? "";
  if (!Array.isArray(told)) return String(told);
  return told
    .slice(0, 3)
    .map(({ loc = [], msg }) => `${loc.slice(1).join(".")}: ${msg}`)
    .join("; ");
}
