/**
 * The pictures that are open, their classes and the settings of the page, kept by the browser.
 *
 * @typedef {object} Entry a picture of the strip.
 * @property {string} id
 * @property {string} name file name.
 * @property {boolean} isLocal whether it is a file on the user's disk.
 * @property {number} order
 * @property {number} width 0 until the picture was decoded.
 * @property {number} height
 * @property {Blob | null} thumbnail
 * @property {Object<number, number>} counts visible masks by class.
 * @property {number[]} classIds ids of the classes of all prompts, hidden ones too.
 * @property {boolean} isUnreadable
 */

import { Classes } from "./classes.js";
import { Document } from "./document.js";
import { idOf, Picture } from "./picture.js";
import { Store } from "./store.js";

/** Longer side of a thumbnail, in pixels. */
const THUMBNAIL = 160;

const DEFAULTS = {
  threshold: 0.5,
  overlap: 1,
  opacity: 0.5,
  outline: 2,
  labels: true,
  preview: false,
  epsilon: 1,
  coco: "polygons",
  scope: "all",
};

export class Project extends EventTarget {
  classes = new Classes();
  settings = { ...DEFAULTS };
  /** @type {Entry[]} */
  entries = [];
  /** Id of the picture that is shown. @type {string | null} */
  current = null;
  /** Whether everything is stored. */
  isSaved = true;
  #store = new Store();
  /** Work for the store by what it stores; a later change replaces an earlier one. */
  #pending = new Map();
  #isWriting = false;
  #isMakingThumbnails = false;

  /** Whether the browser keeps what is stored. */
  get isLasting() {
    return this.#store.isLasting;
  }

  /** Read what was stored; call it once. @returns {Promise<string | null>} the picture to show. */
  async load() {
    const [known, entries] = [await this.#store.get("project", "project"), await this.#store.all("pictures")];
    this.classes.restore(known?.classes);
    await this.#addClassIds(entries);
    Object.assign(this.settings, known?.settings);
    // A picture may have been opened meanwhile.
    const opened = new Map(this.entries.map((each) => [each.id, each]));
    const stored = entries.sort((a, b) => a.order - b.order).filter((each) => !opened.has(each.id));
    this.entries = [...stored, ...opened.values()];
    this.#makeThumbnails();
    const ids = this.entries.map((each) => each.id);
    return ids.includes(known?.current) ? known.current : (ids[0] ?? null);
  }

  /** Add the ids of the classes to entries that an earlier version of the page stored. */
  async #addClassIds(entries) {
    for (const entry of entries.filter((each) => !each.classIds)) {
      entry.classIds = (await this.document(entry.id))?.classIds ?? [];
      this.#keep(entry);
    }
  }

  entry(id) {
    return this.entries.find((each) => each.id === id);
  }

  /** The entry that is a number of pictures after the one shown. */
  beside(step) {
    const at = this.entries.findIndex((each) => each.id === this.current);
    return at < 0 ? undefined : this.entries[at + step];
  }

  /** Add a decoded picture, or files that are decoded later. */
  #insert(id, file, about) {
    const known = this.entry(id);
    if (known) return known;
    const order = Math.max(0, ...this.entries.map((each) => each.order)) + 1;
    const rest = { width: 0, height: 0, thumbnail: null, counts: {}, classIds: [], isUnreadable: false };
    const entry = { id, order, ...rest, ...about };
    this.entries = [...this.entries, entry];
    this.#write(`file ${id}`, () => this.#store.put("files", id, file));
    this.#keep(entry);
    return entry;
  }

  /** Add files without opening them. @returns {Promise<string[]>} ids of the new pictures. */
  async add(files) {
    const ids = [];
    for (const [file, name] of files) {
      const id = await idOf(file);
      this.#insert(id, file, { name, isLocal: true });
      ids.push(id);
    }
    this.#makeThumbnails();
    this.changed();
    return ids;
  }

  /** Make a picture the current one; it becomes the last of the strip if it is new. */
  show(picture) {
    const { id, name, isLocal, width, height } = picture;
    const entry = this.#insert(id, picture.file, { name, isLocal, width, height });
    picture.name = entry.name;
    this.current = id;
    this.#keepProject();
    this.#makeThumbnails();
    this.changed();
  }

  /** Read and decode a picture of the strip. @returns {Promise<Picture>} */
  async open(id) {
    const { name, isLocal } = this.entry(id);
    const file = await this.#reading(() => this.#store.get("files", id));
    return Picture.open(file, { name, isLocal, id });
  }

  /** The stored prompts of a picture, or null. @returns {Promise<Document | null>} */
  async document(id) {
    const stored = await this.#reading(() => this.#store.get("documents", id));
    return stored ? new Document(this.classes, stored) : null;
  }

  /** Store the prompts of a picture, soon. */
  save(id, document) {
    const counts = {};
    for (const each of document.shown(this.settings)) {
      counts[each.class.id] = (counts[each.class.id] ?? 0) + 1;
    }
    const { classIds } = document;
    const entry = this.entry(id);
    this.#write(`document ${id}`, () => this.#store.put("documents", id, document.stored()));
    const isChanged = entry && JSON.stringify([entry.counts, entry.classIds]) !== JSON.stringify([counts, classIds]);
    if (isChanged) this.#change(id, { counts, classIds });
    this.changed();
  }

  /** Change settings, and store them and the classes. */
  set(values = {}) {
    Object.assign(this.settings, values);
    this.#keepProject();
    this.changed();
  }

  remove(id) {
    this.entries = this.entries.filter((each) => each.id !== id);
    if (this.current === id) this.current = null;
    for (const store of ["pictures", "files", "documents"]) {
      this.#write(`${store === "pictures" ? "entry" : store.slice(0, -1)} ${id}`, () =>
        this.#store.remove(store, id),
      );
    }
    this.#keepProject();
    this.changed();
  }

  changed() {
    this.dispatchEvent(new Event("change"));
  }

  #change(id, values) {
    this.entries = this.entries.map((each) => (each.id === id ? { ...each, ...values } : each));
    this.#keep(this.entry(id));
  }

  #keep(entry) {
    this.#write(`entry ${entry.id}`, () => this.#store.put("pictures", entry.id, entry));
  }

  #keepProject() {
    this.#write("project", () => {
      const { settings, current } = this;
      return this.#store.put("project", "project", { classes: this.classes.stored(), settings, current });
    });
  }

  /** Read after everything that waits was written. */
  async #reading(read) {
    await this.#writing;
    return read();
  }

  #writing = Promise.resolve();

  #write(what, work) {
    this.#pending.set(what, work);
    this.isSaved = false;
    if (!this.#isWriting) this.#writing = this.#writeAll();
  }

  async #writeAll() {
    this.#isWriting = true;
    await null;
    try {
      while (this.#pending.size) {
        const [[what, work]] = this.#pending;
        this.#pending.delete(what);
        await work();
      }
      this.isSaved = true;
    } catch (error) {
      // The disk is full, for example. The page keeps working; what is shown can be exported.
      this.#pending.clear();
      this.#store.isLasting = false;
      console.warn(error);
    } finally {
      this.#isWriting = false;
      this.changed();
    }
  }

  /** Make the missing thumbnails, one after the other. */
  async #makeThumbnails() {
    if (this.#isMakingThumbnails) return;
    this.#isMakingThumbnails = true;
    const missing = () => this.entries.find((each) => !each.thumbnail && !each.isUnreadable);
    for (let entry = missing(); entry; entry = missing()) {
      const { id } = entry;
      let made;
      try {
        made = await thumbnailOf(await this.#reading(() => this.#store.get("files", id)));
      } catch {
        made = { isUnreadable: true };
      }
      if (this.entry(id)) this.#change(id, made);
      this.changed();
    }
    this.#isMakingThumbnails = false;
  }
}

async function thumbnailOf(file) {
  const bitmap = await createImageBitmap(file);
  const { width, height } = bitmap;
  const scale = Math.min(1, THUMBNAIL / Math.max(width, height));
  const [across, down] = [width, height].map((side) => Math.max(1, Math.round(side * scale)));
  const canvas = new OffscreenCanvas(across, down);
  const context = canvas.getContext("2d");
  context.imageSmoothingQuality = "high";
  context.drawImage(bitmap, 0, 0, across, down);
  bitmap.close();
  const thumbnail = await canvas.convertToBlob({ type: "image/jpeg", quality: 0.8 });
  return { width, height, thumbnail };
}
