// The button that chooses light, dark, or as the system has it.

import { $ } from "./dom.js";

const THEMES = [["", "as the system has it"], ["light", "light"], ["dark", "dark"]];
const present = () => document.documentElement.dataset.theme ?? "";

export function initTheme() {
  const button = $("theme-button");
  const show = () => {
    button.setAttribute("aria-label", `Theme: ${THEMES.find(([it]) => it === present())[1]}`);
    button.title = button.getAttribute("aria-label");
  };
  button.addEventListener("click", () => {
    const at = THEMES.findIndex(([it]) => it === present());
    const [next] = THEMES[(at + 1) % THEMES.length];
    if (next) document.documentElement.dataset.theme = next;
    else delete document.documentElement.dataset.theme;
    try {
      localStorage.setItem("hatstand.theme", next);
    } catch {
      // it holds until the page is left
    }
    show();
  });
  show();
}
