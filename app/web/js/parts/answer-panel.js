/** The answer to one question: while it streams, and all that is known once it is whole. */
import { asCurl, asPython } from "../ask.js";
import * as format from "../format.js";
import { t } from "../i18n.js";
import { html, useState } from "../ui.js";
import { Facts, Labels, Receipts, Timings } from "./answer-facts.js";
import { Choice, CopyButton, Empty, ErrorNote } from "./basics.js";

/**
 * @typedef {object} Asked
 * @property {number} id
 * @property {import("../ask.js").Question} question
 * @property {import("./adapter-choice.js").Chosen} chosen
 * @property {boolean} labels  a head was asked
 * @property {"running" | "done" | "failed" | "stopped"} state
 * @property {string} text
 * @property {number} pieces  of text that have come
 * @property {number} begun  ms, of `performance.now`
 * @property {number} [first]  when the first piece came
 * @property {number} [latest]
 * @property {any} [answer]
 * @property {any} [error]
 * @property {number} time  ms since 1970
 */

/** @param {{asked: Asked | null, onStop: () => void}} props */
export function AnswerPanel({ asked, onStop }) {
  if (!asked) return html`<section class="panel answer" aria-label=${t("answer")}><${Empty} title=${t("answer.none")}>${t("answer.none.how")}<//></section>`;
  const { state, answer, labels } = asked;
  return html`
    <section class="panel answer" aria-label=${t("answer")} aria-busy=${state === "running"}>
      <header class="panel-head">
        <h2>${asked.question.adapter.replaceAll(",", " + ")}</h2>
        <span class="state numbers" role="status">${stateWords(asked)}</span>
        ${state === "running" && html`<button type="button" class="quiet" onClick=${onStop}>${t("stop")}</button>`}
      </header>
      ${asked.error && html`<${ErrorNote} error=${asked.error} />`}
      ${labels ? answer && html`<${Labels} results=${answer.results ?? [answer]} />` : html`<${Words} asked=${asked} />`}
      ${answer && html`
        ${!labels && html`<${Facts} answer=${answer} /><${Timings} took=${answer.timings_ms} />`}
        <h3>${t("receipt")}</h3>
        ${answer.audio.length ? html`<${Receipts} receipts=${answer.audio} />` : html`<p class="hint">${t("receipt.none")}</p>`}
        <${Snippet} question=${asked.question} labels=${labels} />`}
    </section>`;
}

/** @param {{asked: Asked}} props */
const Words = ({ asked: { text, state } }) => html`
  <div class="words-box">
    <p class=${state === "running" ? "words running" : "words"} data-testid="answer">${text}</p>
    ${text && state !== "running" && html`<${CopyButton} text=${text} />`}
  </div>`;

/** @param {Asked} asked */
function stateWords({ state, pieces, first, latest, answer }) {
  if (state === "running") {
    const rate = pieces > 1 ? (1000 * (pieces - 1)) / Math.max(1, latest - first) : 0;
    return pieces ? t("answer.running", { rate: format.number(rate) }) : t("answer.waiting");
  }
  if (state === "done" && answer?.finish_reason === "length") return t("answer.length");
  return t(`answer.${state}`);
}

/** The same question as code. */
function Snippet({ question, labels }) {
  const [kind, setKind] = useState("curl");
  const code = kind === "curl" ? asCurl(question, labels) : asPython(question, labels);
  return html`
    <details class="snippet">
      <summary>${t("snippet")}</summary>
      <div class="snippet-head">
        <${Choice} legend=${t("snippet.language")} name="snippet" value=${kind} options=${[["curl", "curl"], ["python", "Python"]]} onChange=${setKind} />
        <${CopyButton} text=${code} label=${t(`snippet.copy.${kind}`)} />
      </div>
      <pre tabindex="0"><code>${code}</code></pre>
    </details>`;
}
