// Light and dark: the system's choice, until the user makes one.

import { byId } from "./dom.js";

const KEY = "channeltok-theme";
const systemIsDark = matchMedia("(prefers-color-scheme: dark)");

export function setUpTheme() {
  const button = byId("theme", HTMLButtonElement);
  const isDark = () => (localStorage.getItem(KEY) ?? (systemIsDark.matches ? "dark" : "light")) === "dark";
  const show = () => {
    const chosen = localStorage.getItem(KEY);
    if (chosen) document.documentElement.dataset.theme = chosen;
    button.setAttribute("aria-pressed", String(isDark()));
  };
  button.addEventListener("click", () => {
    localStorage.setItem(KEY, isDark() ? "light" : "dark");
    show();
  });
  systemIsDark.addEventListener("change", show);
  show();
}
