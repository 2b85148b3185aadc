/** The API key dialog and the button that opens it. */

import { byId } from "./dom.js";
import { isKey, key, setKey } from "./key.js";

export class KeyDialog {
  #dialog = byId("key-dialog");
  #field = byId("key");

  /** @param {() => void} onChange called when the key has changed. */
  constructor(onChange) {
    this.onChange = onChange;
    byId("key-button").addEventListener("click", () => this.open());
    byId("key-cancel").addEventListener("click", () => this.#dialog.close());
    byId("key-forget").addEventListener("click", () => this.#use(""));
    byId("key-form").addEventListener("submit", (event) => {
      event.preventDefault();
      const value = this.#field.value.trim();
      if (!isKey(value)) {
        byId("key-problem").textContent = "Invalid key: use ASCII letters, digits and punctuation, without spaces.";
        return;
      }
      this.#use(value);
    });
  }

  get key() {
    return key();
  }

  /** @param {import("./problem.js").Problem | null} problem why another key is needed. */
  open(problem = null) {
    if (this.#dialog.open) return;
    this.#field.value = "";
    byId("key-problem").textContent = problem ? `${problem.title}: ${problem.text}` : "";
    byId("key-forget").disabled = !key();
    this.#dialog.showModal();
    this.#field.focus();
  }

  /** The stored key has changed. */
  changed() {
    this.render();
    this.onChange();
  }

  render() {
    byId("key-button").textContent = key() ? "API key set" : "Enter API key";
  }

  #use(value) {
    setKey(value);
    this.#dialog.close();
    this.changed();
  }
}
