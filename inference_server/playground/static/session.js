/** The picture that is shown, its prompts, and the requests for their results. */

import { Document } from "./document.js";
import { Editor } from "./editor.js";
import * as prompts from "./prompts.js";
import { Remote } from "./remote.js";

/** Minimum score in requests; the slider filters the results. */
const MIN_SCORE = 0.05;

/** Maximum concepts per request: the server's default of `INFERENCE_MAX_PROMPTS`. */
const MAX_CONCEPTS = 16;

/** Smaller copies that are tried for a picture that the server finds too large. */
const MAX_COPIES = 6;

export class Session extends Editor {
  /** The current error. @type {import("./problem.js").Problem | null} */
  problem = null;
  /** Share of the upload that was sent; null while nothing is uploaded. @type {number | null} */
  progress = null;

  #remote = new Remote((activity, share) => {
    this.progress = share;
    this.#report(activity);
  });
  #running = new Set();
  /** Status message of the running requests. */
  #activity = "";
  /** The image that is being opened. */
  #opening = null;
  /** Incremented per image; responses for an earlier image are dropped. */
  #generation = 0;

  /** Status message of the current activity; empty when idle. */
  get activity() {
    return this.#opening ? "Opening image…" : this.#activity;
  }

  /** The last request about the picture that is shown. */
  get exchange() {
    return this.#remote.exchangeOf(this.picture);
  }

  /** Whether the results of a prompt are pending. */
  isWaiting(prompt) {
    return this.picture !== null && this.problem === null && !this.document.hasResults(prompt);
  }

  /**
   * Switch to another image once it is loaded. If several are loading, the last one chosen wins.
   *
   * A picture that is opened for the first time gets the words of the one before.
   *
   * @param {Promise<import("./picture.js").Picture>} opening
   * @returns the image, or null if it failed to load or another one was chosen.
   */
  async open(opening) {
    this.#opening = opening;
    this.changed();
    let picture = null;
    let document = null;
    let problem = null;
    try {
      picture = await opening;
      document = await this.project.document(picture.id);
    } catch (reason) {
      problem = reason;
    }
    if (this.#opening !== opening) {
      picture?.close();
      return null;
    }
    this.#opening = null;
    if (problem) this.setProblem(problem);
    else this.#show(picture, document);
    return problem ? null : picture;
  }

  #show(picture, document) {
    this.picture?.close();
    this.picture = picture;
    this.#generation += 1;
    this.#running.clear();
    this.problem = null;
    this.progress = null;
    this.#activity = "";
    this.project.show(picture);
    const { concepts, version } = this;
    this.document = document ?? new Document(this.project.classes);
    if (!document) {
      const kept = concepts.filter((each) => each.kind === "concept");
      const copies = kept.map((each) => prompts.conceptOf(each.text, each.classId));
      this.document.begin({ prompts: copies }, version);
    }
    this.save();
    this.changed();
    // Encode the image before the first prompt, to hide the latency of the encoder.
    const isDone = this.prompts.length && !this.prompts.some((each) => this.isWaiting(each));
    if (!isDone) this.#run("upload", () => this.#upload(this.#generation));
    this.#requestPending();
  }

  /** Close the picture that is shown. */
  close() {
    this.picture?.close();
    this.picture = null;
    this.#generation += 1;
    this.#running.clear();
    this.problem = null;
    this.progress = null;
    this.#activity = "";
    const kept = this.concepts.filter((each) => each.kind === "concept");
    this.document = new Document(this.project.classes);
    this.document.begin({ prompts: kept }, "");
    this.changed();
  }

  /** Change the model of clicks and boxes. */
  setVersion(version) {
    this.document.version = version;
    this.edited();
  }

  /** Set or clear the current error. */
  setProblem(problem) {
    this.problem = problem;
    this.changed();
  }

  /** Clear the error and repeat the failed requests. */
  retry() {
    this.problem = null;
    this.changed();
    if (!this.picture) return;
    this.#run("upload", () => this.#upload(this.#generation));
    this.#requestPending();
  }

  /** Send smaller copies of the picture until the server accepts one. */
  async shrink() {
    const generation = this.#generation;
    for (let copies = 0; copies < MAX_COPIES; copies += 1) {
      this.#report("Making a smaller copy…");
      await this.picture.shrink();
      if (generation !== this.#generation) return;
      this.problem = null;
      await this.#run("upload", () => this.#upload(generation));
      if (this.problem?.status !== 413) break;
    }
    this.#requestPending();
  }

  edit(changes) {
    this.problem = null;
    super.edit(changes);
  }

  edited() {
    super.edited();
    this.#requestPending();
  }

  /** Request all pending results; objects and concepts run in parallel. */
  #requestPending() {
    if (!this.picture || this.problem) return;
    this.#run("objects", () => this.#requestObjects(this.#generation));
    this.#run("concepts", () => this.#requestConcepts(this.#generation));
  }

  /** Run at most one loop of a kind; a running loop picks up new prompts itself. */
  async #run(kind, work) {
    if (this.#running.has(kind)) return;
    const generation = this.#generation;
    this.#running.add(kind);
    try {
      await work();
    } catch (problem) {
      if (generation === this.#generation) this.problem = problem;
    } finally {
      if (generation === this.#generation) {
        this.#running.delete(kind);
        if (!this.#running.size) this.#activity = "";
        this.changed();
      }
    }
  }

  /** Do work about the picture that a button began; its error is the current error. */
  async run(activity, work) {
    this.problem = null;
    await this.#run(activity, async () => {
      await this.#upload(this.#generation);
      this.#report(activity);
      await work();
    });
  }

  async #requestConcepts(generation) {
    for (;;) {
      const pending = this.concepts.filter((each) => this.isWaiting(each)).slice(0, MAX_CONCEPTS);
      if (!pending.length || generation !== this.#generation) return;
      const activity = `Finding ${pending.map((each) => each.name).join(", ")}…`;
      const body = prompts.conceptRequest(pending, MIN_SCORE);
      const receivers = pending.map((each) => this.document.receiver(each));
      const results = await this.#send(generation, activity, "sam3/concept_segment", body);
      if (!results) return;
      receivers.forEach((receive, index) => receive(results[index]));
      this.save();
      this.changed();
    }
  }

  async #requestObjects(generation) {
    for (;;) {
      const pending = this.objects.find((each) => this.isWaiting(each));
      if (!pending || generation !== this.#generation) return;
      const activity = `Segmenting ${pending.name}…`;
      const receive = this.document.receiver(pending);
      const body = prompts.objectRequest(pending, this.version);
      const path = prompts.objectPath(this.version);
      const results = await this.#send(generation, activity, path, body);
      if (!results) return;
      receive(results[0]);
      this.save();
      this.changed();
    }
  }

  /** Send a request about the picture. @returns the results by prompt; null if it has changed. */
  async #send(generation, activity, path, body) {
    await this.#upload(generation);
    if (generation !== this.#generation) return null;
    this.#report(activity); // after the upload, which ends with its own activity
    const results = await this.#remote.send(this.picture, path, body);
    return generation === this.#generation ? results : null;
  }

  async #upload(generation) {
    await this.#remote.upload(this.picture, this.version, () => generation === this.#generation);
  }

  /** The mask that a click would give, which is not kept. @returns {Promise<Mask | null>} */
  async preview(point) {
    const { picture, version } = this;
    if (!picture || this.problem || this.activity) return null;
    return this.#remote.preview(picture, version, point);
  }

  #report(activity) {
    this.#activity = activity;
    this.changed();
  }
}
