/** A picture: from a file, the clipboard or the server's samples, to an image with a name. */

import { Problem } from "./problem.js";

const EXTENSIONS = { "image/jpeg": "jpg", "image/png": "png", "image/webp": "webp" };

export class Picture {
  /**
   * @param {Blob} file
   * @param {string} name of the file.
   * @param {string} id that the server knows it by.
   * @param {HTMLImageElement} image decoded, turned as its EXIF data say.
   * @param {boolean} isLocal whether the user has the file.
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
   * @throws {Problem} the browser cannot show it.
   */
  static async open(file, { name = "", isLocal = false } = {}) {
    const image = new Image();
    image.src = URL.createObjectURL(file);
    try {
      await image.decode();
    } catch {
      URL.revokeObjectURL(image.src);
      throw new Problem(
        "This browser cannot show the file",
        name || file.type,
        "Open a JPEG, PNG or WebP. The API itself reads TIFF, BMP, GIF and AVIF too.",
      );
    }
    const usual = `picture.${EXTENSIONS[file.type] ?? "png"}`;
    return new Picture(file, name || usual, await idOf(file), image, isLocal);
  }

  /** The image of a request: the file in base64. */
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

/** A name by the content, so that the server finds the same picture again after a reload. */
async function idOf(file) {
  let bytes;
  if (crypto.subtle) {
    bytes = await crypto.subtle.digest("SHA-256", await file.arrayBuffer());
  } else {
    // Browsers digest only on https and localhost.
    bytes = crypto.getRandomValues(new Uint8Array(16)).buffer;
  }
  const hex = Array.from(new Uint8Array(bytes), (byte) => byte.toString(16).padStart(2, "0"));
  return `playground-${hex.join("").slice(0, 32)}`;
}
