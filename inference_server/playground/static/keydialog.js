/** The dialog in which a key is entered, and the button that opens it. */

import { byId } from "./dom.js";
import { isKey, key, setKey } from "./key.js";

export class KeyDialog {
  #dialog = byId("key-dialog");
  #field = byId("key");

  /** @param {() => void} whenChanged */
  constructor(whenChanged) {
    this.whenChanged = whenChanged;
    byId("key-button").addEventListener("click", () => this.open());
    byId("key-cancel").addEventListener("click", () => this.#dialog.close());
    byId("key-forget").addEventListener("click", () => this.#use(""));
    byId("key-form").addEventListener("submit", (event) => {
      event.preventDefault();
      const value = this.#field.value.trim();
      if (!isKey(value)) {
        byId("key-problem").textContent = "A key has only letters, digits and signs, and no spaces.";
        return;
      }
      this.#use(value);
    });
  }

  get key() {
    return key();
  }

  open() {
    this.#field.value = "";
    byId("key-problem").textContent = "";
    byId("key-forget").disabled = !key();
    this.#dialog.showModal();
    this.#field.focus();
  }

  /** Another key is there. */
  changed() {
    this.render();
    this.whenChanged();
  }

  render() {
    byId("key-button").textContent = key() ? "Key is set" : "Enter key";
  }

  #use(value) {
    setKey(value);
    this.#dialog.close();
    this.changed();
  }
}
