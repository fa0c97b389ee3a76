/** How far an answer is from the expected text: word errors, or character errors where words are not divided by spaces. */

const UNSPACED = /[\p{Script=Han}\p{Script=Hiragana}\p{Script=Katakana}\p{Script=Thai}\p{Script=Lao}\p{Script=Khmer}\p{Script=Myanmar}]/u;
const MOST = 4000; // words or characters; beyond, counting takes too long

/** Lower case, no punctuation, single spaces: as the figures of training compare answers. @param {string} text */
export function normal(text) {
  const lower = text.normalize("NFKC").toLowerCase().replaceAll("’", "'");
  const words = lower.replace(/[^\p{L}\p{M}\p{N}_\s']/gu, " ").trim().split(/\s+/).join(" ");
  return words || lower.trim().split(/\s+/).join(" ");
}

/**
 * Substitutions, deletions and insertions, least in number; `null` for a text too long to compare, or an empty one.
 * @param {string} expected
 * @param {string} said
 * @returns {{errors: number, length: number, characters: boolean} | null}
 */
export function textErrors(expected, said) {
  const characters = UNSPACED.test(expected);
  const parts = (/** @type {string} */ text) => (characters ? [...normal(text).replaceAll(" ", "")] : normal(text).split(" ").filter(Boolean));
  const [truth, answer] = [parts(expected), parts(said)];
  if (!truth.length || truth.length > MOST || answer.length > MOST) return null;
  return { errors: distance(truth, answer), length: truth.length, characters };
}

/** Levenshtein's distance. @param {string[]} a @param {string[]} b */
function distance(a, b) {
  let row = Uint32Array.from({ length: b.length + 1 }, (_, at) => at);
  for (let i = 1; i <= a.length; i += 1) {
    const next = new Uint32Array(b.length + 1);
    next[0] = i;
    for (let j = 1; j <= b.length; j += 1) {
      next[j] = Math.min(row[j] + 1, next[j - 1] + 1, row[j - 1] + (a[i - 1] === b[j - 1] ? 0 : 1));
    }
    row = next;
  }
  return row[b.length];
}
