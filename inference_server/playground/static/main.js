/** The page: puts its parts together. */

import { renderAnswer } from "./answer.js";
import { Code } from "./code.js";
import { byId, count, fill, make } from "./dom.js";
import { download } from "./files.js";
import { KeyDialog } from "./keydialog.js";
import { takeKeyFromAddress } from "./key.js";
import { Picture } from "./picture.js";
import { Problem } from "./problem.js";
import { renderPrompts } from "./promptlist.js";
import { renderSamples, suggestions } from "./samples.js";
import { ask } from "./server.js";
import { Session } from "./session.js";
import { Stage } from "./stage.js";
import { followTheme } from "./theme.js";

const session = new Session();
/** What is known of the server. */
const about = { needsKey: true, isDemo: false };

/** Say something in words, until something else happens. */
function say(text) {
  byId("status").textContent = text;
}

const stage = new Stage(session, say);
const code = new Code(session, about, say);
const keyDialog = new KeyDialog(() => {
  learn();
  session.retry();
});

/** Learn which models there are; whether a key is wanted shows by the way. */
async function learn() {
  try {
    const { body } = await ask("models");
    const { checkpoints } = body;
    about.isDemo = checkpoints.some((each) => each.source === "demo");
    const versions = checkpoints.filter((each) => each.family === "sam2").map((each) => each.name);
    const chosen = session.version;
    const names = ["", ...versions];
    const option = (name) => make("option", { value: name }, name || "the server's choice");
    fill(byId("version"), names.map(option));
    byId("version").value = chosen;
    byId("version-field").hidden = versions.length < 2;
    byId("demo").hidden = !about.isDemo;
    byId("suggestions").hidden = !about.isDemo;
    about.needsKey = Boolean(keyDialog.key);
    if (session.problem?.status === 401) session.retry();
  } catch (problem) {
    // A key for segmentation alone may not be told about models, and is good all the same.
    if (problem instanceof Problem && problem.status !== 403) session.tell(problem);
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

/** What the status says by itself. */
function summary(shown) {
  const { picture } = session;
  if (!picture) return "No picture yet.";
  const size = `${picture.name}, ${picture.width} × ${picture.height}`;
  if (!session.prompts.length) {
    return `${size}. Add a concept, click on an object, or drag a box.`;
  }
  const answered = (prompt) => session.isAnswered(prompt);
  const parts = session.concepts.filter(answered).map((prompt) => {
    const masks = shown.filter((each) => each.prompt.id === prompt.id).length;
    return `${prompt.name}: ${session.isHidden(prompt) ? "hidden" : count(masks, "mask")}`;
  });
  for (const prompt of session.objects.filter(answered)) {
    const [found] = session.found(prompt);
    if (found) parts.push(`${prompt.name}: score ${found.score.toFixed(2)}`);
  }
  return parts.length ? `${parts.join("; ")}.` : `${size}. Nothing is answered yet.`;
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
  const enter = make("button", { type: "button", onclick: () => keyDialog.open() }, "Enter key");
  const again = make("button", { type: "button", onclick: () => session.retry() }, "Try again");
  const words = problem instanceof Problem ? problem : new Problem("The page failed", String(problem), "Reload it.");
  fill(box, [
    make(
      "div",
      { class: "problem" },
      make("strong", {}, words.title),
      make("p", {}, [words.text, words.remedy].filter(Boolean).join(" ")),
      make("div", { class: "buttons" }, words.wantsKey ? enter : null, again),
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

let summarised = "";
function render() {
  const shown = session.shown();
  stage.draw();
  renderPrompts(session, shown);
  renderSuggestions();
  renderProblem();
  renderAnswer(session.exchange);
  code.render();
  byId("undo").disabled = !session.canUndo;
  byId("redo").disabled = !session.canRedo;
  byId("clear").disabled = !session.prompts.length;
  byId("new-object").disabled = !session.selected;
  byId("progress").hidden = !session.work;
  byId("threshold-value").textContent = session.threshold.toFixed(2);
  const overlap = session.overlap < 1 ? session.overlap.toFixed(2) : "off";
  byId("nms-value").textContent = overlap;
  byId("nms").setAttribute("aria-valuetext", overlap);
  const all = session.concepts.reduce((sum, each) => sum + session.found(each).length, 0);
  const left = shown.filter((each) => each.prompt.kind !== "object").length;
  byId("counts").textContent = all ? `${left} of ${count(all, "mask")} shown.` : "No masks yet.";
  for (const button of byId("downloads").children) button.disabled = !shown.length;
  const status = session.work || summary(shown);
  if (status !== summarised) say(status);
  summarised = status;
}

let isDue = false;
session.addEventListener("change", () => {
  if (isDue) return;
  isDue = true;
  requestAnimationFrame(() => {
    isDue = false;
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
  // What the clipboard calls it is no file that the user could name.
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
learn();
