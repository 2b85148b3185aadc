/** The API key: it comes in the address's fragment or from its dialog, and stays in this tab. */

const NAME = "inference-server-key";

/** Where the key is kept if the browser keeps nothing for this page. */
let memory = "";

/** The key, or an empty string. */
export function key() {
  try {
    return sessionStorage.getItem(NAME) ?? "";
  } catch {
    return memory;
  }
}

/** Whether a text may be a key: a header carries no other characters. */
export const isKey = (text) => /^[\x21-\x7e]+$/.test(text);

/** @param {string} value an empty string forgets the key. */
export function setKey(value) {
  memory = value;
  try {
    if (value) sessionStorage.setItem(NAME, value);
    else sessionStorage.removeItem(NAME);
  } catch {
    // Then it lives as long as the page.
  }
}

/**
 * Take the key out of `#key=…`, and the fragment out of the address and the history.
 *
 * @returns {boolean} whether there was one.
 */
export function takeKeyFromAddress() {
  const value = new URLSearchParams(location.hash.slice(1)).get("key");
  if (value === null) return false;
  if (isKey(value)) setKey(value);
  history.replaceState(history.state, "", location.pathname + location.search);
  return true;
}
