/** One answer of a comparison: its words, how they differ, how far they are from the expected text, and its figures. */
import { differences } from "../differences.js";
import * as format from "../format.js";
import { t } from "../i18n.js";
import { html } from "../ui.js";
import { textErrors } from "../word-errors.js";
import { Facts } from "./answer-facts.js";
import { Badge, CopyButton, ErrorNote } from "./basics.js";
import { titleOf } from "./entrants.js";
import { Feedback } from "./feedback.js";

/** @typedef {{name: string, text: string, answer?: any, error?: any}} Column  ``name``: see `titleOf` */

/**
 * ``reference``: the text to compare with, `null` for none yet; ``expected``: the right answer, empty where it is not known.
 * @param {{column: Column, reference: string | null, isReference: boolean, expected: string, busy: boolean}} props
 */
export function Compared({ column, reference, isReference, expected, busy }) {
  const { name, text, answer, error } = column;
  const going = busy && !answer && !error;
  // marks that come and go while words arrive would only disturb
  const marked = isReference || error || going || reference === null ? [{ text, same: true }] : differences(reference, text);
  const version = answer?.adapter.version;
  return html`
    <section class="panel column" aria-label=${titleOf(name)}>
      <header class="panel-head">
        <h2>${titleOf(name)}</h2>
        ${version && !name.includes("@") && html`<${Badge}>${t("compare.version", { version })}<//>`}
        ${isReference && html`<${Badge} kind="accent">${t("compare.is-reference")}<//>`}
      </header>
      ${error && html`<${ErrorNote} error=${error} />`}
      <p class=${going ? "words running" : "words"} data-testid="column">${marked.map((run) => (run.same ? run.text : html`<mark>${run.text}</mark>`))}</p>
      ${answer && html`<${Facts} answer=${answer} small=${true} more=${expected.trim() ? [errorsIn(expected, text)] : []} />`}
      <footer class="numbers small muted">
        <span>${answer ? t(answer.finish_reason === "length" ? "answer.length" : "answer.done") : t(going ? "answer.waiting" : error ? "answer.failed" : "answer.stopped")}</span>
        ${answer && html`<${CopyButton} text=${text} small=${true} />`}
      </footer>
      ${answer && html`<${Feedback} key=${answer.id} answer=${answer} />`}
    </section>`;
}

/** @param {string} expected @param {string} text @returns {[string, any]} */
function errorsIn(expected, text) {
  const found = textErrors(expected, text);
  if (!found) return [t("figure.wer"), "–"];
  const { errors, length, characters } = found;
  return [t(characters ? "figure.cer" : "figure.wer"), html`${format.percent(errors / length)} <span class="small muted">${t("compare.errors", { errors: format.number(errors), length: format.number(length) })}</span>`];
}
