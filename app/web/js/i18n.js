/** Words in the visitor's language. */
import { createStore, remember, remembered } from "./store.js";
import en from "./strings/en.js";
import zh from "./strings/zh.js";

/** @type {Record<string, Record<string, string>>} */
const LANGUAGES = { en, zh };
const first = remembered("language") ?? (navigator.language.toLowerCase().startsWith("zh") ? "zh" : "en");

export const language = createStore(first in LANGUAGES ? first : "en");
const announce = () => { document.documentElement.lang = language.get() === "zh" ? "zh-Hans" : "en"; };
language.subscribe(announce);
announce();

/** @param {string} next */
export function speak(next) {
  remember("language", next);
  language.set(next);
}

/**
 * The words for ``key``, with `{name}` replaced.
 * @param {string} key
 * @param {Record<string, string | number>} [values]
 * @returns {string}
 */
export function t(key, values = {}) {
  const words = LANGUAGES[language.get()][key] ?? en[key] ?? key;
  return words.replace(/\{(\w+)\}/g, (_, name) => String(values[name] ?? ""));
}

/** The words for ``key`` if there are any, else ``otherwise``: for values that the service makes up. */
export function known(key, otherwise = "") {
  return key in en ? t(key) : otherwise;
}
