/** Files that the user chooses, drops or pastes: pictures, folders of pictures, and labels. */

import { byId } from "./dom.js";
import { Picture } from "./picture.js";

const IMAGE = /\.(jpe?g|png|webp|gif|bmp|avif)$/i;

const isImage = (file) => file.type.startsWith("image/") || IMAGE.test(file.name);
const isLabels = (file) => file.type === "application/json" || /\.json$/i.test(file.name);

/** All files of a dropped entry, with their paths. @returns {Promise<[File, string][]>} */
async function filesOf(entry, path = "") {
  if (entry.isFile) {
    const file = await new Promise((resolve, reject) => entry.file(resolve, reject));
    return [[file, path + entry.name]];
  }
  const reader = entry.createReader();
  const found = [];
  for (;;) {
    // A reader returns up to 100 entries at a time, and none at the end.
    const some = await new Promise((resolve, reject) => reader.readEntries(resolve, reject));
    if (!some.length) break;
    found.push(...some);
  }
  found.sort((a, b) => a.name.localeCompare(b.name, "en", { numeric: true }));
  const lists = await Promise.all(found.map((each) => filesOf(each, `${path}${entry.name}/`)));
  return lists.flat();
}

export class Opening {
  /**
   * @param {object} actions
   * @param {(opening: Promise<Picture>) => void} actions.open shows a picture.
   * @param {(files: [File, string][]) => void} actions.add adds several pictures to the strip.
   * @param {(file: File) => void} actions.label adds the labels of a file.
   */
  constructor(actions) {
    this.actions = actions;
    byId("file").addEventListener("change", (event) => {
      const files = [...event.target.files].map((file) => [file, file.name]);
      event.target.value = "";
      this.take(files);
    });
    addEventListener("paste", (event) => {
      const file = [...event.clipboardData.files].find((each) => each.type.startsWith("image/"));
      if (!file) return;
      event.preventDefault();
      // A clipboard image has no file on disk, so its name is not used.
      actions.open(Picture.open(file));
    });
    addEventListener("dragover", (event) => {
      if (![...event.dataTransfer.types].includes("Files")) return;
      event.preventDefault();
      byId("frame").classList.add("dropping");
    });
    addEventListener("dragleave", (event) => {
      if (!event.relatedTarget) byId("frame").classList.remove("dropping");
    });
    addEventListener("drop", (event) => this.#drop(event));
  }

  async #drop(event) {
    byId("frame").classList.remove("dropping");
    const { items, files } = event.dataTransfer;
    if (!files.length) return;
    event.preventDefault();
    const entries = [...items].map((item) => item.webkitGetAsEntry?.()).filter(Boolean);
    const isFolder = entries.some((each) => each.isDirectory);
    const plain = [...files].map((file) => [file, file.name]);
    this.take(isFolder ? (await Promise.all(entries.map((each) => filesOf(each)))).flat() : plain);
  }

  /** @param {[File, string][]} files with their names. */
  take(files) {
    const labels = files.filter(([file]) => isLabels(file));
    const rest = files.filter(([file]) => !isLabels(file));
    // A single file is tried whatever it is called; its error says what is wrong.
    const pictures = rest.length === 1 ? rest : rest.filter(([file]) => isImage(file));
    if (pictures.length === 1) {
      const [[file, name]] = pictures;
      this.actions.open(Picture.open(file, { name, isLocal: true }));
    } else if (pictures.length) this.actions.add(pictures);
    for (const [file] of labels) this.actions.label(file);
  }
}
