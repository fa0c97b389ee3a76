/** What an answer tells besides its words: speed, where the time went, what was heard. */
import * as format from "../format.js";
import { known, t } from "../i18n.js";
import { reasonIn } from "../problem-words.js";
import { html } from "../ui.js";
import { Badge } from "./basics.js";

const STAGES = ["queue", "audio", "prefill", "decode"];

/** Tokens a second while decoding. @param {any} answer */
export const speed = ({ usage, timings_ms }) =>
  (usage.completion_tokens > 1 && timings_ms.decode > 0 ? (1000 * (usage.completion_tokens - 1)) / timings_ms.decode : null);

/** @param {{answer: any, more?: [string, any][], small?: boolean}} props  ``more``: figures that come first */
export function Facts({ answer, more = [], small = false }) {
  const { usage, timings_ms: took } = answer;
  const rate = speed(answer);
  const facts = [
    ...more,
    [t("fact.speed"), rate === null ? "–" : format.number(rate, rate < 100 ? 1 : 0)],
    [t("fact.ttft"), format.milliseconds(took.ttft)],
    [t("fact.total"), format.milliseconds(took.total)],
    [t("fact.tokens"), `${format.number(usage.prompt_tokens)} → ${format.number(usage.completion_tokens)}`],
  ];
  return html`<dl class=${small ? "facts small-facts" : "facts"}>${facts.map(([name, value]) => html`<div><dt>${name}</dt><dd class="numbers">${value}</dd></div>`)}</dl>`;
}

/** Stages as parts of one bar. @param {{took: Record<string, number>}} props */
export function Timings({ took }) {
  const stages = STAGES.filter((stage) => took[stage] > 0);
  const whole = stages.reduce((sum, stage) => sum + took[stage], 0) || 1;
  return html`
    <div class="timings">
      <div class="bar" aria-hidden="true">${stages.map((stage) => html`<span class=${`stage ${stage}`} style=${{ "--share": took[stage] / whole }}></span>`)}</div>
      <ul>${stages.map((stage) => html`
        <li><span class=${`swatch ${stage}`} aria-hidden="true"></span>${t(`stage.${stage}`)} <span class="numbers">${format.milliseconds(took[stage])}</span></li>`)}</ul>
    </div>`;
}

const MOST_TIMES = 8;

/** Where clips begin and end. @param {{start: number, end: number}[]} segments */
const times = (segments) =>
  segments.slice(0, MOST_TIMES).map(({ start, end }) => `${format.number(start, 1)}–${format.number(end, 1)} s`).join(", ")
  + (segments.length > MOST_TIMES ? " …" : "");

/** Receipts: the part of each file that was used. @param {{receipts: any[], names: string[]}} props */
export const Receipts = ({ receipts, names }) => html`
  <ul class="receipts">${receipts.map((one, at) => html`
    <li>
      <strong>${names[at]}</strong>
      <span>${one.container} · ${one.codec.replace("_", " ")}</span>
      <span class="numbers">${format.number(one.sample_rate)} Hz</span>
      <span>${known(`channels.${one.channels}`, t("channels", { count: one.channels }))}</span>
      <span class="numbers">${t("receipt.seconds", { used: format.number(one.seconds_used, 2), all: format.number(one.seconds, 2) })}</span>
      <span class="numbers">${t("receipt.level", { rms: format.number(one.rms_dbfs, 1), peak: format.percent(one.peak, 0) })}</span>
      ${one.segments.length > 1 && html`<span class="numbers">${t("receipt.clips", { count: format.number(one.segments.length), times: times(one.segments) })}</span>`}
      ${one.skipped_seconds > 0 && html`<${Badge}>${t("receipt.skipped", { seconds: format.number(one.skipped_seconds, 1) })}<//>`}
      ${one.clipped > 0.001 && html`<${Badge} kind="warn">${t("receipt.clipped", { share: format.percent(one.clipped) })}<//>`}
      ${one.silent && html`<${Badge} kind="warn">${t("receipt.silent")}<//>`}
      ${one.warnings.map((/** @type {string} */ warning) => { const { words, lang } = reasonIn(warning); return html`<p class="warning" lang=${lang}>${words}</p>`; })}
    </li>`)}</ul>`;

/** Probabilities of a head, likeliest first. @param {{results: any[], names: string[]}} props */
export const Labels = ({ results, names }) => html`
  <div class="labels">${results.map((one, at) => html`
    ${results.length > 1 && html`<h3>${names[at]}</h3>`}
    <ol>${one.labels.slice(0, 8).map(({ label, probability }) => html`
      <li><span>${label}</span><span class="meter" aria-hidden="true"><span style=${{ "--share": probability }}></span></span>
        <span class="numbers">${format.percent(probability)}</span></li>`)}</ol>`)}</div>`;
