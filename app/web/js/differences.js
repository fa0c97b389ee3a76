/** Where two answers differ, word by word; character by character where words are not divided by spaces. */

const PIECES = /\s+|[\p{Script=Han}\p{Script=Hiragana}\p{Script=Katakana}\p{Script=Hangul}]|[\p{L}\p{N}'’]+|./gsu;
const MOST = 2000; // pieces; beyond, the table of the comparison gets too large

/** @param {string} text @returns {string[]} */
export const pieces = (text) => text.match(PIECES) ?? [];

/**
 * The pieces of ``text``, each with whether ``reference`` has it too at its place in the longest common subsequence.
 * @param {string} reference
 * @param {string} text
 * @returns {{text: string, same: boolean}[]}
 */
export function differences(reference, text) {
  const a = pieces(reference).filter((piece) => piece.trim()).slice(0, MOST);
  const all = pieces(text).slice(0, MOST);
  const b = all.filter((piece) => piece.trim());
  const same = common(a.map(plain), b.map(plain));
  let at = 0;
  /** @type {{text: string, same: boolean}[]} */
  const runs = [];
  for (const piece of all) {
    const blank = !piece.trim();
    const isSame = blank ? runs.at(-1)?.same ?? true : same[at++];
    const last = runs.at(-1);
    if (last && last.same === isSame) last.text += piece;
    else runs.push({ text: piece, same: isSame });
  }
  return runs;
}

const plain = (/** @type {string} */ piece) => piece.toLowerCase();

/** For each of ``b`` whether it belongs to the longest common subsequence. @param {string[]} a @param {string[]} b */
function common(a, b) {
  const width = b.length + 1;
  const longest = new Uint16Array((a.length + 1) * width);
  for (let i = a.length - 1; i >= 0; i -= 1) {
    for (let j = b.length - 1; j >= 0; j -= 1) {
      longest[i * width + j] = a[i] === b[j]
        ? longest[(i + 1) * width + j + 1] + 1
        : Math.max(longest[(i + 1) * width + j], longest[i * width + j + 1]);
    }
  }
  const found = b.map(() => false);
  for (let i = 0, j = 0; i < a.length && j < b.length;) {
    if (a[i] === b[j]) { found[j] = true; i += 1; j += 1; }
    else if (longest[(i + 1) * width + j] >= longest[i * width + j + 1]) i += 1;
    else j += 1;
  }
  return found;
}
