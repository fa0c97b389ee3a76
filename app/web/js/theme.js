/** Light or dark: the system's, until the visitor chooses. */
import { createStore, remember, remembered } from "./store.js";

const system = matchMedia("(prefers-color-scheme: dark)");
/** @returns {"light" | "dark"} */
const now = () => /** @type {any} */ (remembered("theme")) ?? (system.matches ? "dark" : "light");

export const theme = createStore(now());
system.addEventListener("change", () => theme.set(now()));

/** The other one; chosen from now on. */
export function toggleTheme() {
  const next = theme.get() === "dark" ? "light" : "dark";
  document.documentElement.dataset.theme = next;
  remember("theme", next);
  theme.set(next);
}
