/** The panel that shows the request as code. */

import { byId, fill, make } from "./dom.js";
import { key } from "./key.js";
import { conceptRequest, objectPath, objectRequest } from "./prompts.js";
import { BASE } from "./server.js";
import { LANGUAGES } from "./snippets.js";

const HINT = "Open an image and add a concept, click or box to see the request.";

export class Code {
  #language = "curl";
  #text = "";
  /** Prompts at the last render, to detect new ones and show their request. */
  #lastPrompts = [];

  /**
   * @param {import("./session.js").Session} session
   * @param {{needsKey: boolean}} server state of the server, kept up to date by its owner.
   * @param {(text: string) => void} say shows a status message.
   */
  constructor(session, server, say) {
    this.session = session;
    this.server = server;
    this.say = say;
    this.tabs = [...document.querySelectorAll("[role=tab]")];
    for (const tab of this.tabs) {
      tab.addEventListener("click", () => this.#choose(tab));
      tab.addEventListener("keydown", (event) => this.#key(event));
    }
    for (const id of ["code-request", "code-image", "reveal"]) {
      byId(id).addEventListener("change", () => this.render());
    }
    byId("copy").addEventListener("click", () => this.#copy());
  }

  /** Refer to a local file by name, and to a pasted or sample image by its id. */
  open(picture) {
    byId("code-image").value = picture.isLocal ? "file" : "id";
  }

  render() {
    const { session } = this;
    this.#renderRequests();
    const body = this.#body(byId("code-request").value);
    if (!body || !session.picture) {
      this.#text = "";
      byId("code").textContent = HINT;
    } else {
      this.#text = LANGUAGES[this.#language]({
        url: BASE + body.path,
        body: body.body,
        file: byId("code-image").value === "file" ? session.picture.name : null,
        id: session.picture.sentId,
        key: this.server.needsKey ? (byId("reveal").checked ? key() : "") : null,
      });
      byId("code").textContent = this.#text;
    }
    byId("copy").disabled = !this.#text;
    byId("reveal").disabled = !key();
  }

  /** List the requests: one for all visible concepts, one per object. */
  #renderRequests() {
    const { session } = this;
    const select = byId("code-request");
    const hasConcepts = session.concepts.some((each) => !session.document.isHidden(each));
    const options = session.objects.map((each) => [String(each.id), each.name]);
    if (hasConcepts) options.unshift(["concepts", "Concepts"]);
    const added = session.prompts.find((each) => !this.#lastPrompts.includes(each));
    this.#lastPrompts = session.prompts;
    let chosen = select.value;
    if (added) chosen = added.kind === "object" ? String(added.id) : "concepts";
    if (!options.some(([value]) => value === chosen)) chosen = options.at(-1)?.[0] ?? "";
    fill(select, options.map(([value, name]) => make("option", { value }, name)));
    select.value = chosen;
    select.disabled = options.length < 2;
  }

  #body(choice) {
    const { session } = this;
    if (choice === "concepts") {
      const visible = session.concepts.filter((each) => !session.document.isHidden(each));
      return {
        path: "sam3/concept_segment",
        body: conceptRequest(visible, session.threshold, session.overlap),
      };
    }
    const object = session.objects.find((each) => String(each.id) === choice);
    if (!object) return null;
    const { version } = session;
    return { path: objectPath(version), body: objectRequest(object, version) };
  }

  #choose(tab) {
    this.#language = tab.dataset.language;
    for (const each of this.tabs) {
      each.setAttribute("aria-selected", String(each === tab));
      each.tabIndex = each === tab ? 0 : -1;
    }
    byId("code").setAttribute("aria-labelledby", tab.id);
    this.render();
  }

  #key(event) {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!step) return;
    const at = this.tabs.indexOf(event.currentTarget) + step + this.tabs.length;
    const tab = this.tabs[at % this.tabs.length];
    tab.focus();
    this.#choose(tab);
    event.preventDefault();
  }

  async #copy() {
    try {
      await navigator.clipboard.writeText(this.#text);
    } catch {
      // The clipboard API requires https or localhost; this fallback works elsewhere.
      getSelection().selectAllChildren(byId("code"));
      if (!document.execCommand("copy")) {
        this.say("The browser blocked copying. The code is selected; press Ctrl+C.");
        return;
      }
    }
    this.say("Copied.");
    byId("copy").textContent = "Copied";
    setTimeout(() => (byId("copy").textContent = "Copy"), 1500);
  }
}
