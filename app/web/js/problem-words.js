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

/** Sentences of receipts, of the data check and of warnings; in English they are the server's own. */
const SENTENCES = /** @type {[RegExp, string][]} */ ([
  [/^The file seems cut off; what is there was used\.$/, "reason.cut-off"],
  [/^The file is damaged; what could be read of it was used\.$/, "reason.damaged"],
  [/^The file is damaged; what could be read of it was used; ([\d.]+) s are missing\.$/, "reason.seconds-missing"],
  [/^([\d.]+) s of the file could not be decoded/, "reason.undecoded"],
  [/^The file holds bytes that belong to no recording/, "reason.other-bytes"],
  [/^([\d,]+) bytes inside the file belong to no recording/, "reason.inner-bytes"],
  [/^Another (\S+) recording.* follows the first one/, "reason.another"],
  [/^The file goes on after the end of the recording: ([\d,]+) bytes/, "reason.goes-on"],
  [/^The file holds (\d+) audio tracks; track (\d+)/, "reason.tracks"],
  [/^Channels are out of phase.*channels? (.+) of (\d+) w/, "reason.phase"],
  [/^Channels? (.+) of (\d+) (?:is|are) silent/, "reason.silent-channel"],
  [/^The float samples are (\d+)-bit integers/, "reason.unscaled"],
  [/^The float samples run to ([\d.,e+]+), where/, "reason.too-large"],
  [/^The samples had an offset \(DC\) of ([-\d.]+)/, "reason.offset"],
  [/^The recording is silent\.$/, "reason.silent"],
  [/^The recording is very quiet \((-?\d+) dBFS/, "reason.quiet"],
  [/^([\d.]+%) of the samples are clipped/, "reason.clipped"],
  [/^Padded with silence from ([\d.]+) s to ([\d.]+) s/, "reason.padded"],
  [/^its configuration names the base ('.*'), served here is ('.*')$/, "reason.named-base"],
  [/^its configuration has (.*), which PEFT [\d.]+ does not know: left aside$/, "reason.unknown-fields"],
  [/^it was trained over (.*) weights of its base and is served over (.*) ones:/, "reason.weights"],
  [/^target_modules names (\d+) layers that (\S+) has no tensors for/, "reason.no-tensors"],
  [/^(.*) name the part of its recording that a row means$/, "reason.part"],
  [/^(\S+): columns as (\S+) names them/, "reason.columns"],
  [/^rows without a split are in that of the folder/, "reason.folders"],
  [/^the current version could not be asked: it is a classification head/, "reason.is-head"],
  [/^the current version could not be asked: it changes the audio tower/, "reason.is-tower"],
]);

/** A reason in the page's language where its words are known. @param {string} reason @returns {{words: string, lang?: string}} */
export function reasonIn(reason) {
  if (language.get() === "en" && SENTENCES.some(([pattern]) => pattern.test(reason))) return { words: reason };
  for (const [pattern, key] of [...REASONS, ...SENTENCES]) {
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
