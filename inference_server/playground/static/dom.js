/** The document: finding, making and replacing its elements. */

/** @param {string} id */
export const byId = (id) => document.getElementById(id);

/**
 * Make an element.
 *
 * @param {string} tag
 * @param {Object<string, unknown>} attributes `on…` are listeners, `class` the class; true is an
 *   attribute without a value, and null, undefined and false leave it out.
 * @param {...(Node | string | null)} children
 */
export function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value === true) element.setAttribute(name, "");
    else if (value !== null && value !== undefined && value !== false) {
      element.setAttribute(name, String(value));
    }
  }
  element.append(...children.filter((child) => child !== null));
  return element;
}

/**
 * Replace what is in an element, unless it is the same already, and keep the keyboard where it was:
 * a button that is being pressed must not be swapped for its twin.
 *
 * Who had the focus is found again by `data-focus`; if it has gone, the fallback gets the focus.
 *
 * @param {HTMLElement} parent
 * @param {(Node | string)[]} children
 * @param {HTMLElement | null} fallback
 */
export function fill(parent, children, fallback = null) {
  const html = (child) => (typeof child === "string" ? child : child.outerHTML);
  if (parent.innerHTML === children.map(html).join("")) return;
  const had = parent.contains(document.activeElement) ? document.activeElement : null;
  parent.replaceChildren(...children);
  if (had === null || parent.contains(document.activeElement)) return;
  const name = had.dataset.focus;
  const again = name && parent.querySelector(`[data-focus="${CSS.escape(name)}"]`);
  (again || fallback)?.focus();
}

/** A number in the words of a count: `1 mask`, `2 masks`. */
export function count(number, noun) {
  return `${number} ${noun}${number === 1 ? "" : "s"}`;
}
