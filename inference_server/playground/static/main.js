/** Entry point: connects the parts of the page. */

import { candidates, everything } from "./candidates.js";
import { ClassList } from "./classlist.js";
import { Code } from "./code.js";
import { Controls } from "./controls.js";
import { byId, count, fill, make } from "./dom.js";
import { Hover } from "./hover.js";
import { addLabels } from "./imports.js";
import { KeyDialog } from "./keydialog.js";
import { takeKeyFromAddress } from "./key.js";
import { Opening } from "./opening.js";
import { Problem } from "./problem.js";
import { renderProblem } from "./problembox.js";
import { Project } from "./project.js";
import { renderPrompts } from "./promptlist.js";
import { renderResponse } from "./response.js";
import { renderSamples, suggestions } from "./samples.js";
import { Selection } from "./selection.js";
import { request } from "./server.js";
import { Session } from "./session.js";
import { listenForKeys } from "./shortcuts.js";
import { Stage } from "./stage.js";
import { Strip } from "./strip.js";
import { followTheme } from "./theme.js";

const project = new Project();
const session = new Session(project);
/** State of the server. */
const server = { needsKey: true, isDemo: false, families: [] };

/** Show a status message until the next change. */
function say(text) {
  byId("status").textContent = text;
}

const stage = new Stage(session, say);
new Hover(session, stage);
const code = new Code(session, server, say);
const controls = new Controls(session, say);
const classList = new ClassList(session);
const strip = new Strip(project, { open: (id) => open(project.open(id)), remove });
const keyDialog = new KeyDialog(() => {
  loadModels();
  session.retry();
});
const selection = new Selection(session, stage, say, async (prompt) => {
  let found = [];
  await session.run("Asking for other masks…", async () => {
    found = await candidates(session.picture, prompt);
  });
  return found;
});

/** Fetch the list of models; the response also tells whether a key is needed. */
async function loadModels() {
  try {
    const { body } = await request("models");
    const { checkpoints } = body;
    server.isDemo = checkpoints.some((each) => each.source === "demo");
    server.families = checkpoints.map((each) => each.family);
    const versions = checkpoints.filter((each) => each.family === "sam2").map((each) => each.name);
    const names = ["", ...versions];
    const option = (name) => make("option", { value: name }, name ? `SAM 2 ${name}` : "Automatic");
    fill(byId("version"), names.map(option));
    byId("version-field").hidden = !versions.length;
    byId("demo").hidden = !server.isDemo;
    byId("suggestions").hidden = !server.isDemo;
    server.needsKey = Boolean(keyDialog.key);
    if (session.problem?.status === 401) session.retry();
  } catch (problem) {
    // 403: the key may segment but not list models, so it is valid.
    if (problem instanceof Problem && problem.status !== 403) session.setProblem(problem);
  }
  render();
}

/** @param {Promise<import("./picture.js").Picture>} opening */
async function open(opening) {
  const picture = await session.open(opening);
  if (!picture) return;
  stage.open(picture);
  code.open(picture);
  render();
}

/** Close a picture; if it is shown, show the one beside it. */
function remove(id) {
  const isShown = id === project.current;
  const other = isShown ? (project.beside(1) ?? project.beside(-1)) : null;
  if (isShown) {
    session.close();
    stage.open(null);
  }
  project.remove(id);
  if (other) open(project.open(other.id));
}

new Opening({
  open,
  add: async (files) => {
    say(`Adding ${count(files.length, "picture")}…`);
    const [first] = await project.add(files);
    open(project.open(first));
  },
  label: async (file) => {
    try {
      const done = await addLabels(session, file);
      // Otherwise the status of the new masks would replace it.
      render();
      say(done);
    } catch (problem) {
      session.setProblem(problem);
    }
  },
});

byId("everything").addEventListener("click", () =>
  session.run("Segmenting everything…", async () => {
    const family = ["sam2", "sam1"].find((each) => server.families.includes(each)) ?? "sam3";
    const { picture } = session;
    const found = await everything(picture, family === "sam1" ? "sam" : family);
    if (picture === session.picture) session.addMasks(found);
  }),
);

/** The default status message. */
function summary(shown) {
  const { picture, document } = session;
  if (!picture) return "No image loaded.";
  const size = `${picture.name}, ${picture.width} × ${picture.height}`;
  if (!session.prompts.length) {
    return `${size}. Add a concept, click on an object, or drag a box.`;
  }
  const hasResults = (prompt) => document.hasResults(prompt);
  const parts = session.concepts.filter(hasResults).map((prompt) => {
    const masks = shown.filter((each) => each.prompt.id === prompt.id).length;
    return `${prompt.name}: ${document.isHidden(prompt) ? "hidden" : count(masks, "mask")}`;
  });
  const objects = session.objects.filter(hasResults);
  if (objects.length > 4) parts.push(count(objects.length, "object"));
  else {
    for (const prompt of objects) {
      const [found] = document.found(prompt);
      if (found) parts.push(`${prompt.name}: score ${found.score.toFixed(2)}`);
    }
  }
  return parts.length ? `${parts.join("; ")}.` : `${size}. No results yet.`;
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

function renderProgress() {
  const bar = byId("progress");
  bar.hidden = !session.activity;
  const isKnown = session.progress !== null;
  bar.classList.toggle("known", isKnown);
  bar.style.setProperty("--share", String(session.progress ?? 0));
  if (isKnown) bar.setAttribute("aria-valuenow", String(Math.floor(100 * session.progress)));
  else bar.removeAttribute("aria-valuenow");
}

const problemActions = {
  enterKey: () => keyDialog.open(),
  retry: () => session.retry(),
  shrink: () => session.shrink(),
};

let lastStatus = "";
let lastProblem = null;
function render() {
  const shown = session.shown();
  stage.draw();
  classList.render();
  renderPrompts(session, shown);
  renderSuggestions();
  renderProblem(session.problem, problemActions);
  renderResponse(session.exchange);
  code.render();
  strip.render();
  selection.render();
  controls.render(shown);
  renderProgress();
  byId("everything").disabled = !session.picture || Boolean(session.activity);
  byId("zoom-in").disabled ||= !session.picture;
  if (session.problem !== lastProblem) {
    lastProblem = session.problem;
    if (session.problem?.isWrongKey) keyDialog.open(session.problem);
  }
  const status = session.activity || summary(shown);
  if (status !== lastStatus) say(status);
  lastStatus = status;
}

let isRenderQueued = false;
function queueRender() {
  if (isRenderQueued) return;
  isRenderQueued = true;
  requestAnimationFrame(() => {
    isRenderQueued = false;
    render();
  });
}
session.addEventListener("change", queueRender);
project.addEventListener("change", queueRender);
session.addEventListener("highlight", () => stage.draw());

addEventListener("hashchange", () => {
  if (takeKeyFromAddress()) keyDialog.changed();
});

takeKeyFromAddress();
followTheme();
keyDialog.render();
listenForKeys({ session, stage, strip, selection, say });
renderSamples(open);
render();
loadModels();
const last = await project.load();
controls.restore();
render();
if (last && !session.picture && !session.activity) open(project.open(last));
