/** The image that the user works on: from a file, the clipboard or the samples. */

import { Problem } from "./problem.js";

const EXTENSIONS = { "image/jpeg": "jpg", "image/png": "png", "image/webp": "webp" };

/** Each smaller copy has this share of the width and height of the one before. */
const SMALLER = 0.7;

export class Picture {
  /** The copy that requests send: the file itself, until the server finds it too large. */
  #copy;

  /**
   * @param {Blob} file
   * @param {string} name file name.
   * @param {string} id of the picture, and `image_id` in requests.
   * @param {HTMLImageElement} image decoded, with EXIF orientation applied.
   * @param {boolean} isLocal whether it is a file on the user's disk.
   */
  constructor(file, name, id, image, isLocal) {
    this.file = file;
    this.name = name;
    this.id = id;
    this.image = image;
    this.isLocal = isLocal;
    this.width = image.naturalWidth;
    this.height = image.naturalHeight;
    this.#copy = { file, id, scale: 1 };
  }

  /**
   * @param {Blob} file
   * @param {{name?: string, isLocal?: boolean, id?: string}} about
   * @throws {Problem} if the browser cannot decode it.
   */
  static async open(file, { name = "", isLocal = false, id = "" } = {}) {
    const image = new Image();
    image.src = URL.createObjectURL(file);
    try {
      await image.decode();
    } catch {
      URL.revokeObjectURL(image.src);
      throw new Problem(
        "The browser cannot decode the file",
        name || file.type,
        "Open a JPEG, PNG or WebP file. The API also accepts TIFF, BMP, GIF and AVIF.",
        0,
        true,
      );
    }
    const fallback = `image.${EXTENSIONS[file.type] ?? "png"}`;
    return new Picture(file, name || fallback, id || (await idOf(file)), image, isLocal);
  }

  /** The `image_id` in requests. */
  get sentId() {
    return this.#copy.id;
  }

  /** The file that requests send. */
  get sentFile() {
    return this.#copy.file;
  }

  /** Pixels of the copy that is sent per pixel of the picture. */
  get scale() {
    return this.#copy.scale;
  }

  /** The `image` field of a request: the base64-encoded file. */
  async sent() {
    const url = await new Promise((resolve, reject) => {
      const reader = new FileReader();
      reader.onload = () => resolve(String(reader.result));
      reader.onerror = () => reject(reader.error);
      reader.readAsDataURL(this.#copy.file);
    });
    return { type: "base64", value: url.slice(url.indexOf(",") + 1) };
  }

  /** Send a smaller copy from now on: first as a JPEG of the same size, then with fewer pixels. */
  async shrink() {
    const isFirst = this.#copy.file === this.file && this.file.type !== "image/jpeg";
    const scale = isFirst ? 1 : this.#copy.scale * SMALLER;
    const sides = [this.width, this.height].map((side) => Math.max(1, Math.round(side * scale)));
    const canvas = new OffscreenCanvas(...sides);
    canvas.getContext("2d").drawImage(this.image, 0, 0, canvas.width, canvas.height);
    const file = await canvas.convertToBlob({ type: "image/jpeg", quality: 0.9 });
    this.#copy = { file, id: await idOf(file), scale: canvas.width / this.width };
  }

  close() {
    URL.revokeObjectURL(this.image.src);
  }
}

/**
 * The SHA-256 of the content. So the server's cache is hit again after a reload, and requests that
 * send the file find its embedding.
 */
export async function idOf(file) {
  let bytes;
  if (crypto.subtle) {
    bytes = await crypto.subtle.digest("SHA-256", await file.arrayBuffer());
  } else {
    // `crypto.subtle` requires https or localhost.
    bytes = crypto.getRandomValues(new Uint8Array(32)).buffer;
  }
  return Array.from(new Uint8Array(bytes), (byte) => byte.toString(16).padStart(2, "0")).join("");
}
