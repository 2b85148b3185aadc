/** The image that the user works on: from a file, the clipboard or the samples. */

import { Problem } from "./problem.js";

const EXTENSIONS = { "image/jpeg": "jpg", "image/png": "png", "image/webp": "webp" };

export class Picture {
  /**
   * @param {Blob} file
   * @param {string} name file name.
   * @param {string} id `image_id` in requests.
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
  }

  /**
   * @param {Blob} file
   * @param {{name?: string, isLocal?: boolean}} about
   * @throws {Problem} if the browser cannot decode it.
   */
  static async open(file, { name = "", isLocal = false } = {}) {
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
      );
    }
    const fallback = `image.${EXTENSIONS[file.type] ?? "png"}`;
    return new Picture(file, name || fallback, await idOf(file), image, isLocal);
  }

  /** The `image` field of a request: the base64-encoded file. */
  async sent() {
    const url = await new Promise((resolve, reject) => {
      const reader = new FileReader();
      reader.onload = () => resolve(String(reader.result));
      reader.onerror = () => reject(reader.error);
      reader.readAsDataURL(this.file);
    });
    return { type: "base64", value: url.slice(url.indexOf(",") + 1) };
  }

  close() {
    URL.revokeObjectURL(this.image.src);
  }
}

/** An id derived from the content, so that the server's cache is hit again after a reload. */
async function idOf(file) {
  let bytes;
  if (crypto.subtle) {
    bytes = await crypto.subtle.digest("SHA-256", await file.arrayBuffer());
  } else {
    // `crypto.subtle` requires https or localhost.
    bytes = crypto.getRandomValues(new Uint8Array(16)).buffer;
  }
  const hex = Array.from(new Uint8Array(bytes), (byte) => byte.toString(16).padStart(2, "0"));
  return `playground-${hex.join("").slice(0, 32)}`;
}
