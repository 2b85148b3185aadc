/** Entry point: connects the parts of the page. */

import { Code } from "./code.js";
import { byId, count, fill, make } from "./dom.js";
import { download } from "./files.js";
import { KeyDialog } from "./keydialog.js";
import { takeKeyFromAddress } from "./key.js";
import { Picture } from "./picture.js";
import { Problem } from "./problem.js";
import { renderPrompts } from "./promptlist.js";
import { renderResponse } from "./response.js";
import { renderSamples, suggestions } from "./samples.js";
import { request } from "./server.js";
import { Session } from "./session.js";
import { Stage } from "./stage.js";
import { followTheme } from "./theme.js";

const session = new Session();
/** State of the server. */
const server = { needsKey: true, isDemo: false };

/** Show a status message until the next change. */
function say(text) {
  byId("status").textContent = text;
}

const stage = new Stage(session, say);
const code = new Code(session, server, say);
const keyDialog = new KeyDialog(() => {
  loadModels();
  session.retry();
});

/** Fetch the list of models; the response also tells whether a key is needed. */
async function loadModels() {
  try {
    const { body } = await request("models");
    const { checkpoints } = body;
    server.isDemo = checkpoints.some((each) => each.source === "demo");
    const versions = checkpoints.filter((each) => each.family === "sam2").map((each) => each.name);
    const chosen = session.version;
    const names = ["", ...versions];
    const option = (name) => make("option", { value: name }, name ? `SAM 2 ${name}` : "Automatic");
    fill(byId("version"), names.map(option));
    byId("version").value = chosen;
    byId("version-field").hidden = !versions.length;
    byId("demo").hidden = !server.isDemo;
    byId("suggestions").hidden = !server.isDemo;
    server.needsKey = Boolean(keyDialog.key);
    if (session.problem?.status === 401) session.retry();
  } catch (problem) {
    // 403: the key may segment but not list models, so it is valid.
    if (problem instanceof Problem && problem.status !== 403) session.setProblem(problem);
  }
  code.render();
}

/** @param {Promise<Picture>} opening */
async function open(opening) {
  const picture = await session.open(opening);
  if (!picture) return;
  stage.open(picture);
  code.open(picture);
}

const openFile = (file, isLocal) => open(Picture.open(file, { name: file.name, isLocal }));

/** The default status message. */
function summary(shown) {
  const { picture } = session;
  if (!picture) return "No image loaded.";
  const size = `${picture.name}, ${picture.width} × ${picture.height}`;
  if (!session.prompts.length) {
    return `${size}. Add a concept, click on an object, or drag a box.`;
  }
  const hasResults = (prompt) => session.hasResults(prompt);
  const parts = session.concepts.filter(hasResults).map((prompt) => {
    const masks = shown.filter((each) => each.prompt.id === prompt.id).length;
    return `${prompt.name}: ${session.isHidden(prompt) ? "hidden" : count(masks, "mask")}`;
  });
  for (const prompt of session.objects.filter(hasResults)) {
    const [found] = session.found(prompt);
    if (found) parts.push(`${prompt.name}: score ${found.score.toFixed(2)}`);
  }
  return parts.length ? `${parts.join("; ")}.` : `${size}. No results yet.`;
}

function renderProblem() {
  const box = byId("problem");
  const { problem } = session;
  const same = box.dataset.title === problem?.title && box.dataset.text === problem?.text;
  if (same && box.childElementCount === (problem ? 1 : 0)) return;
  box.dataset.title = problem?.title ?? "";
  box.dataset.text = problem?.text ?? "";
  if (!problem) {
    box.replaceChildren();
    return;
  }
  const enter = make("button", { type: "button", onclick: () => keyDialog.open() }, "Enter API key");
  const retry = make("button", { type: "button", onclick: () => session.retry() }, "Retry");
  const shown =
    problem instanceof Problem
      ? problem
      : new Problem("Page error", String(problem), "Reload the page.");
  fill(box, [
    make(
      "div",
      { class: "problem" },
      make("strong", {}, shown.title),
      make("p", {}, [shown.text, shown.remedy].filter(Boolean).join(" ")),
      make("div", { class: "buttons" }, shown.wantsKey ? enter : null, retry),
    ),
  ]);
}

function renderSuggestions() {
  const add = (text) => () => session.addConcepts([text]);
  fill(byId("suggestions"), [
    "Try ",
    ...suggestions(session.picture).map((text) =>
      make("button", { type: "button", class: "link", onclick: add(text) }, text),
    ),
  ]);
}

let lastStatus = "";
function render() {
  const shown = session.shown();
  stage.draw();
  renderPrompts(session, shown);
  renderSuggestions();
  renderProblem();
  renderResponse(session.exchange);
  code.render();
  byId("undo").disabled = !session.canUndo;
  byId("redo").disabled = !session.canRedo;
  byId("clear").disabled = !session.prompts.length;
  byId("new-object").disabled = !session.selected;
  byId("progress").hidden = !session.activity;
  byId("threshold-value").textContent = session.threshold.toFixed(2);
  const overlap = session.overlap < 1 ? session.overlap.toFixed(2) : "off";
  byId("nms-value").textContent = overlap;
  byId("nms").setAttribute("aria-valuetext", overlap);
  const all = session.concepts.reduce((sum, each) => sum + session.found(each).length, 0);
  const visible = shown.filter((each) => each.prompt.kind !== "object").length;
  byId("counts").textContent = all ? `${visible} of ${count(all, "mask")} shown.` : "No masks.";
  for (const button of byId("downloads").children) button.disabled = !shown.length;
  const status = session.activity || summary(shown);
  if (status !== lastStatus) say(status);
  lastStatus = status;
}

let isRenderQueued = false;
session.addEventListener("change", () => {
  if (isRenderQueued) return;
  isRenderQueued = true;
  requestAnimationFrame(() => {
    isRenderQueued = false;
    render();
  });
});

session.addEventListener("highlight", () => stage.draw());

function addConcepts() {
  const field = byId("concept");
  const texts = field.value.split(",").map((text) => text.trim()).filter(Boolean);
  field.value = "";
  session.addConcepts(texts);
}

byId("concept-form").addEventListener("submit", (event) => {
  event.preventDefault();
  addConcepts();
});
byId("concept").addEventListener("keydown", (event) => {
  if (event.key === ",") {
    event.preventDefault();
    addConcepts();
  } else if (event.key === "Backspace" && !event.target.value && session.concepts.length) {
    session.remove(session.concepts.at(-1));
  }
});
byId("undo").addEventListener("click", () => session.undo());
byId("redo").addEventListener("click", () => session.redo());
byId("clear").addEventListener("click", () => session.clear());
byId("new-object").addEventListener("click", () => session.select(null));
byId("threshold").addEventListener("input", (event) => {
  session.set({ threshold: Number(event.target.value) });
});
byId("nms").addEventListener("input", (event) => session.set({ overlap: Number(event.target.value) }));
byId("version").addEventListener("change", (event) => session.set({ version: event.target.value }));
byId("downloads").addEventListener("click", async (event) => {
  const form = event.target.dataset.form;
  if (form) say(`Saved ${await download(session, form)}.`);
});

byId("file").addEventListener("change", (event) => {
  const [file] = event.target.files;
  event.target.value = "";
  if (file) openFile(file, true);
});
addEventListener("paste", (event) => {
  const file = [...event.clipboardData.files].find((each) => each.type.startsWith("image/"));
  if (!file) return;
  event.preventDefault();
  // A clipboard image has no file on disk, so its name is not used.
  open(Picture.open(file));
});
addEventListener("dragover", (event) => {
  if (![...event.dataTransfer.types].includes("Files")) return;
  event.preventDefault();
  byId("frame").classList.add("dropping");
});
addEventListener("dragleave", (event) => {
  if (!event.relatedTarget) byId("frame").classList.remove("dropping");
});
addEventListener("drop", (event) => {
  byId("frame").classList.remove("dropping");
  const [file] = event.dataTransfer.files;
  if (!file) return;
  event.preventDefault();
  openFile(file, true);
});
addEventListener("keydown", (event) => {
  const isTyping = event.target.matches?.("input[type=text], input[type=password]");
  if (!(event.ctrlKey || event.metaKey) || isTyping) return;
  const name = event.key.toLowerCase();
  if (name === "z") event.shiftKey ? session.redo() : session.undo();
  else if (name === "y") session.redo();
  else return;
  event.preventDefault();
});
addEventListener("hashchange", () => {
  if (takeKeyFromAddress()) keyDialog.changed();
});

takeKeyFromAddress();
followTheme();
keyDialog.render();
renderSamples(open);
render();
loadModels();
