/** The answer to one question: while it streams, and all that is known once it is whole. */
import { asCurl, asPython } from "../ask.js";
import { namesOf } from "../clips.js";
import * as format from "../format.js";
import { change, keepById } from "../history.js";
import { t } from "../i18n.js";
import { linkTo } from "../question-link.js";
import { html, useState } from "../ui.js";
import { Facts, Labels, Receipts, Timings } from "./answer-facts.js";
import { Choice, CopyButton, Empty, ErrorNote } from "./basics.js";
import { Feedback } from "./feedback.js";

/**
 * @typedef {object} Asked
 * @property {string} id
 * @property {import("../ask.js").Question} question
 * @property {string} asked  the prompt; where the question has none, what the service takes instead
 * @property {import("./ask-options.js").DEFAULTS} options  as they stood on the form
 * @property {import("./adapter-choice.js").Chosen} chosen
 * @property {boolean} labels  a head was asked
 * @property {"running" | "done" | "failed" | "stopped"} state
 * @property {string} text
 * @property {number} pieces  of text that have come
 * @property {number} [first]  ms, of `performance.now`: when the first piece came
 * @property {number} [latest]
 * @property {any} [answer]
 * @property {any} [error]
 * @property {any} [judged]  the row of feedback on it
 * @property {number} time  ms since 1970
 */

/**
 * ``stale``: other recordings lie on the form by now.
 * @param {{asked: Asked | null, stale: boolean, busy: boolean, onStop: () => void, onAgain: () => void, onFollow: (prompt: string) => void}} props
 */
export function AnswerPanel({ asked, stale, busy, onStop, onAgain, onFollow }) {
  if (!asked) return html`<section class="panel answer" aria-label=${t("answer")}><${Empty} title=${t("answer.none")}>${t("answer.none.how")}<//></section>`;
  const { state, answer, labels, question } = asked;
  const names = namesOf(question.clips);
  return html`
    <section class="panel answer" aria-label=${t("answer")} aria-busy=${state === "running"}>
      <header class="panel-head">
        <h2>${question.adapter.replaceAll(",", " + ")}</h2>
        <span class="state numbers" role="status">${stateWords(asked)}</span>
        ${state === "running" && html`<button type="button" class="quiet" onClick=${onStop}>${t("stop")}</button>`}
      </header>
      ${stale && names.length > 0 && html`<p class="note plain small">${t("answer.stale", { names: names.join(", ") })}</p>`}
      <${Turns} turns=${question.earlier ?? []} />
      ${!labels && asked.asked && html`<p class="asked"><span class="visually-hidden">${t("answer.asked")}${" "}</span>${asked.asked}</p>`}
      ${labels ? answer && html`<${Labels} results=${answer.results ?? [answer]} names=${names} />` : html`<${Words} asked=${asked} />`}
      ${asked.error && html`<${ErrorNote} error=${asked.error} onRetry=${busy ? undefined : onAgain} />`}
      ${answer && !labels && html`<${Feedback} key=${answer.id} answer=${answer} question=${question} given=${asked.judged} onGiven=${(judged) => { change(asked.id, () => ({ judged })); keepById(asked.id); }} />`}
      ${answer && !labels && html`<${FollowUp} key=${asked.id} busy=${busy} onFollow=${onFollow} />`}
      ${answer && html`
        ${!labels && html`<${Facts} answer=${answer} /><${Timings} took=${answer.timings_ms} />`}
        <h3>${t("receipt")}</h3>
        ${answer.audio.length ? html`<${Receipts} receipts=${answer.audio} names=${names} />` : html`<p class="hint">${t("receipt.none")}</p>`}
        ${!question.earlier?.length && html`<${Passing} asked=${asked} />`}
        <${Snippet} question=${question} labels=${labels} />`}
    </section>`;
}

/** @param {{turns: import("../ask.js").Turn[]}} props */
const Turns = ({ turns }) => turns.length > 0 && html`
  <ol class="turns" aria-label=${t("answer.turns")}>${turns.map(({ prompt, text }) => html`<li><p class="asked">${prompt}</p><p>${text || t("answer.empty")}</p></li>`)}</ol>`;

/** The next question about the same recordings. */
function FollowUp({ busy, onFollow }) {
  const [prompt, setPrompt] = useState("");
  const ready = prompt.trim() !== "" && !busy;
  const submit = (event) => { event.preventDefault(); if (ready) onFollow(prompt); };
  return html`
    <form class="follow" onSubmit=${submit}>
      <input type="text" aria-label=${t("follow")} placeholder=${t("follow")} value=${prompt} onInput=${(event) => setPrompt(event.currentTarget.value)} />
      <button type="submit" class="quiet" disabled=${!ready}>${t("follow.go")}</button>
    </form>`;
}

/** Ways to hand the question on. @param {{asked: Asked}} props */
function Passing({ asked: { question, labels, chosen } }) {
  const { adapter, prompt, options, clips } = question;
  const sample = clips.length === 1 && clips[0].sample && !clips[0].region ? "demo.flac" : "";
  const fields = { adapter, prompt, ...options, recording: sample };
  const others = { prompt, ...options, ...(chosen.kind === "base" ? {} : { adapters: `base,${adapter.replaceAll(",", "+")}` }) };
  return html`
    <div class="actions">
      <${CopyButton} text=${linkTo("try", fields)} label=${t("link.copy")} />
      ${!labels && html`<a class="button quiet" href=${linkTo("compare", others)}>${t("link.compare")}</a>`}
      <span class="hint">${t(clips.length && !sample ? "link.without" : "link.what")}</span>
    </div>`;
}

/** @param {{asked: Asked}} props */
const Words = ({ asked: { text, state } }) => html`
  <div class="words-box">
    <p class=${state === "running" ? "words running" : "words"} data-testid="answer">${text}</p>
    ${text && state !== "running" && html`<${CopyButton} text=${text} />`}
    ${!text && state === "done" && html`<p class="hint">${t("answer.empty")}</p>`}
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
