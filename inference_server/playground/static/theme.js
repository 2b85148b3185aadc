/** Dark and light theme: follows the system until the button is used. */

import { byId } from "./dom.js";

const NAME = "inference-server-theme";
const system = matchMedia("(prefers-color-scheme: dark)");

function chosen() {
  try {
    return localStorage.getItem(NAME);
  } catch {
    return null;
  }
}

function apply() {
  const theme = chosen() ?? (system.matches ? "dark" : "light");
  document.documentElement.dataset.theme = theme;
  byId("theme-button")?.setAttribute("aria-pressed", String(theme === "dark"));
}

/** Apply the theme and handle its button. */
export function followTheme() {
  apply();
  system.addEventListener("change", apply);
  byId("theme-button")?.addEventListener("click", () => {
    const next = document.documentElement.dataset.theme === "dark" ? "light" : "dark";
    try {
      localStorage.setItem(NAME, next);
      apply();
    } catch {
      document.documentElement.dataset.theme = next;
    }
  });
}
