/** The API key: read from the URL fragment or the dialog, kept in this tab's session storage. */

const NAME = "inference-server-key";

/** Fallback for browsers that block session storage. */
let memory = "";

/** @returns {string} the key, or an empty string. */
export function key() {
  try {
    return sessionStorage.getItem(NAME) ?? "";
  } catch {
    return memory;
  }
}

/** Whether a text can be a key, that is, can be sent in an HTTP header. */
export const isKey = (text) => /^[\x21-\x7e]+$/.test(text);

/** @param {string} value the key; an empty string removes it. */
export function setKey(value) {
  memory = value;
  try {
    if (value) sessionStorage.setItem(NAME, value);
    else sessionStorage.removeItem(NAME);
  } catch {
    // `memory` keeps the key until the page is closed.
  }
}

/**
 * Read the key from `#key=…`, then remove the fragment from the URL and the history.
 *
 * @returns {boolean} whether the URL had a key.
 */
export function takeKeyFromAddress() {
  const value = new URLSearchParams(location.hash.slice(1)).get("key");
  if (value === null) return false;
  if (isKey(value)) setKey(value);
  history.replaceState(history.state, "", location.pathname + location.search);
  return true;
}
