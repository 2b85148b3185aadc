/** DOM helpers: find, create and replace elements. */

/** @param {string} id */
export const byId = (id) => document.getElementById(id);

/**
 * Create an element.
 *
 * @param {string} tag
 * @param {Object<string, unknown>} attributes `on…` adds a listener; true sets an attribute without
 *   a value; null, undefined and false omit it.
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
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

/**
 * Replace the children of an element, unless they are equal, and keep the keyboard focus. Replacing
 * a button while it is pressed would lose the click.
 *
 * The focused element is identified by `data-focus`; if it is gone, the fallback is focused.
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

/** Format a count: `1 mask`, `2 masks`. */
export function count(number, noun) {
  return `${number} ${noun}${number === 1 ? "" : "s"}`;
}
