/** Errors in words: the server's own where the page is in English, else the page's words for their code, then the server's. */
import { known, language, t } from "./i18n.js";

const COMMAND = /(^|[\s(`'"])--[a-z]|\bovertone [a-z]+ |\bcurl\b/; // what only makes sense in a terminal

/**
 * A refusal of what was uploaded, under a code of the page's own where the service's says no more than "bad request".
 * @param {any} problem @param {"adapter_file" | "dataset_file"} code
 */
export const ofUpload = (problem, code) => (problem.code === "bad_request" && !problem.fields?.length ? Object.assign(problem, { code }) : problem);

/** Without asides and sentences that speak of commands. @param {string} text */
export function withoutCommands(text) {
  if (!COMMAND.test(text)) return text;
  const shorter = text.replace(/ ?\([^()]*\)/g, (aside) => (COMMAND.test(aside) ? "" : aside));
  return shorter.split(/(?<=[.;:]) /).filter((sentence) => !COMMAND.test(sentence)).join(" ").replace(/[;:]$/, ".");
}

/** Sentences of the validation that are often met. */
const REASONS = /** @type {[RegExp, string][]} */ ([
  [/^(\d+) of its (\d+) tensors do not fit this base: it was trained/, "reason.tensors"],
  [/^(\S+) \((\d+) tensors, layers ([^)]+)\) has shape (\([^)]*\)), this base and its rank need (\([^)]*\))$/, "reason.shapes"],
  [/^(\S+) has shape (\([^)]*\)), this base and its rank need (\([^)]*\))$/, "reason.shape"],
  [/^its rank (\d+) exceeds this server's (\d+)/, "reason.rank"],
  [/^(\S+) is missing$/, "reason.missing"],
  [/^it was trained over ('.*') with other weights than the ('.*') served here$/, "reason.base"],
  [/^it would change nothing/, "reason.nothing"],
  [/^(.*): NaN or infinite values$/, "reason.infinite"],
]);

/** A reason in the page's language where its words are known. @param {string} reason @returns {{words: string, lang?: string}} */
export function reasonIn(reason) {
  for (const [pattern, key] of REASONS) {
    const found = pattern.exec(reason);
    if (found) return { words: t(key, Object.fromEntries(found.entries())) };
  }
  return { words: reason, lang: "en" };
}

/**
 * ``lead``: what is wrong and what to do. ``said``: the server's own words in English where they say more. ``reasons``: all of them.
 * @param {{message?: string, code?: string, problems?: string[], fields?: string[]}} error
 */
export function wordsOf(error) {
  const reasons = (error.problems ?? []).map(withoutCommands).filter((reason) => reason);
  let text = error.message ?? "";
  const list = (error.problems ?? []).join("; ");
  if (list && text.endsWith(list)) text = text.slice(0, -list.length).replace(/: $/, ".");
  const said = withoutCommands(text);
  const own = known(`error.code.${error.code}`, "", { fields: (error.fields ?? []).join(", ") }).replace(/ ?[(（][)）]/, "");
  if (!own) return { lead: said, said: "", reasons };
  if (language.get() === "en") return { lead: said || own, said: "", reasons };
  return { lead: own, said, reasons };
}
