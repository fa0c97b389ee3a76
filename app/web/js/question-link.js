/** Links that carry a question: `#/try?adapter=nato&prompt=Spell+it.&temperature=0.7`. Recordings are not in them. */
import { DEFAULTS } from "./parts/ask-options.js";
import { BASE } from "./parts/adapter-choice.js";

/**
 * A question on its form.
 * @typedef {object} Form
 * @property {string} prompt
 * @property {typeof DEFAULTS} options
 * @property {import("./parts/adapter-choice.js").Chosen} chosen
 */

/** @param {string} view @param {Record<string, string>} fields  those that say nothing are left out, except the prompt */
export function linkTo(view, fields) {
  const said = Object.entries(fields).filter(([name, value]) => name === "prompt" || value !== "");
  return new URL(`#/${view}?${new URLSearchParams(said)}`, document.baseURI).href;
}

/** The options of a link: with a prompt it carries all of them, else only those that it names. @param {URLSearchParams} query @param {typeof DEFAULTS} now */
export function optionsIn(query, now) {
  const options = { ...(query.has("prompt") ? DEFAULTS : now) };
  for (const name of Object.keys(DEFAULTS)) if (query.has(name)) options[name] = query.get(name) ?? "";
  return options;
}

/** What a name, `base` or a mix `a:0.7,b:0.3` chooses. @param {string} adapter */
export function chosenIn(adapter) {
  if (!adapter || adapter === "base") return BASE;
  if (!/[:,]/.test(adapter)) return { ...BASE, kind: /** @type {const} */ ("one"), name: adapter };
  const parts = adapter.split(",").map((part) => part.trim().split(":"));
  return { ...BASE, kind: /** @type {const} */ ("mix"), parts: Object.fromEntries(parts.map(([name, weight]) => [name, weight === undefined ? 1 : Number(weight)])) };
}
