/** Words in the visitor's language. */
import { createStore, remember, remembered } from "./store.js";
import enProblems from "./strings/en-problems.js";
import enRows from "./strings/en-rows.js";
import en from "./strings/en.js";
import zhHantProblems from "./strings/zh-hant-problems.js";
import zhHantRows from "./strings/zh-hant-rows.js";
import zhHant from "./strings/zh-hant.js";
import zhProblems from "./strings/zh-problems.js";
import zhRows from "./strings/zh-rows.js";
import zh from "./strings/zh.js";

/** @type {Record<string, Record<string, string>>} */
const LANGUAGES = { en: { ...en, ...enRows, ...enProblems }, zh: { ...zh, ...zhRows, ...zhProblems }, "zh-hant": { ...zhHant, ...zhHantRows, ...zhHantProblems } };
/** What each is called in itself. */
export const NAMES = { en: "English", zh: "简体中文", "zh-hant": "繁體中文" };
/** For `lang` and for numbers. */
const TAGS = { en: ["en", "en-GB"], zh: ["zh-Hans", "zh-CN"], "zh-hant": ["zh-Hant", "zh-TW"] };

/** The language for one that the browser names, such as `zh-TW`; nothing for any other. @param {string} tag */
function languageOf(tag) {
  if (/^en\b/i.test(tag)) return "en";
  if (!/^(zh|yue)\b/i.test(tag)) return undefined;
  return /-(hant|tw|hk|mo)\b/i.test(tag) && !/-hans\b/i.test(tag) ? "zh-hant" : "zh";
}

const chosen = remembered("language") ?? "";
const wished = navigator.languages.map(languageOf).find((one) => one);

export const language = createStore(chosen in LANGUAGES ? chosen : wished ?? "en");
/** `zh-Hans`, for `lang` attributes. @param {string} [of] */
export const tag = (of = language.get()) => TAGS[of][0];
/** `zh-CN`, for numbers and times. */
export const locale = () => TAGS[language.get()][1];
const announce = () => { document.documentElement.lang = tag(); };
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
  const words = LANGUAGES[language.get()][key] ?? LANGUAGES.en[key] ?? key;
  return words.replace(/\{(\w+)\}/g, (_, name) => String(values[name] ?? ""));
}

/**
 * The words for ``key`` if there are any, else ``otherwise``: for values that the service makes up.
 * @param {string} key
 * @param {string} [otherwise]
 * @param {Record<string, string | number>} [values]
 */
export function known(key, otherwise = "", values = {}) {
  return key in LANGUAGES.en ? t(key, values) : otherwise;
}
