/** What the base model and an adapter say to a row's question now, side by side, with what differs from the right answer. */
import { Problem, isAbort } from "../api.js";
import { compare } from "../ask.js";
import { makeClip } from "../audio/clip.js";
import { differences } from "../differences.js";
import { recordingsOf } from "../feedback.js";
import { t } from "../i18n.js";
import { html, useEffect, useState } from "../ui.js";
import { Badge, ErrorNote } from "./basics.js";
import { titleOf } from "./entrants.js";

const MARK = /<audio>/g; // of a recording in a question

/** @typedef {{name: string, text: string, version?: number, done?: boolean, error?: any}} Side */

/** @param {{row: any, adapter: string, served: string[]}} props  ``adapter``: beside the base model, until another is chosen; empty for none */
export function RowAnswers({ row, adapter, served }) {
  const [chosen, setChosen] = useState(adapter || served[0] || "");
  const names = chosen ? ["base", chosen] : ["base"];
  const [sides, setSides] = useState(/** @type {Side[]} */ ([]));
  const [error, setError] = useState(/** @type {any} */ (null));
  const change = (/** @type {number} */ at, /** @type {(side: Side) => Partial<Side>} */ facts) =>
    setSides((now) => now.map((one, index) => (index === at ? { ...one, ...facts(one) } : one)));
  useEffect(() => {
    const stop = new AbortController();
    setError(null);
    setSides(names.map((name) => ({ name, text: "" })));
    asked(row, names, stop.signal, (index, kind, data) => {
      if (kind === "token") change(index, (one) => ({ text: one.text + data.text }));
      else if (kind === "done") change(index, () => ({ text: data.text, version: data.adapter.version, done: true }));
      else if (kind === "error") change(index, () => ({ error: new Problem(data.error), done: true }));
    }).catch((problem) => { if (!isAbort(problem)) setError(problem); });
    return () => stop.abort();
  }, [row.id, chosen]);
  const right = row.verdict === "wrong" ? row.corrected || row.answer : row.answer;
  return html`
    <section class="side-by-side" aria-label=${t("rows.sides")}>
      ${served.length > 0 && html`
        <label class="line split"><span class="small muted">${t("rows.sides.with")}</span>
          <select value=${chosen} onChange=${(event) => setChosen(event.currentTarget.value)}>${[...new Set([...(adapter ? [adapter] : []), ...served])].map((one) => html`<option value=${one}>${titleOf(one)}</option>`)}</select></label>`}
      <p class="hint"><mark>${t("compare.mark")}</mark> ${t(row.corrected ? "rows.sides.corrected" : "rows.sides.answer")}</p>
      <div class="columns">${sides.map((side) => html`
        <div class="side-answer" key=${side.name}>
          <p class="small muted"><strong>${titleOf(side.name)}</strong>${" "}${side.version && html`<${Badge}>${t("compare.version", { version: side.version })}<//>`}</p>
          <p class="said" data-testid="side">${marked(right, side).map((run) => (run.same ? run.text : html`<mark>${run.text}</mark>`))}${!side.done && !error ? " …" : ""}</p>
          <${ErrorNote} error=${side.error} />
        </div>`)}</div>
      <${ErrorNote} error=${error} />
    </section>`;
}

/** @param {string} right @param {Side} side */
const marked = (right, { text, done }) => (done ? (text ? differences(right, text) : [{ text: t("answer.empty"), same: true }]) : [{ text, same: true }]);

/** @param {any} row @param {string[]} names @param {AbortSignal} signal @param {(index: number, kind: string, data: any) => void} onEvent */
async function asked(row, names, signal, onEvent) {
  const sounds = await recordingsOf(row);
  const clips = await Promise.all(sounds.map((blob, at) => makeClip(blob, `${at}.wav`)));
  const told = row.messages.map((/** @type {any} */ turn) => ({ ...turn, content: turn.content.replace(MARK, "").trim() }));
  const turns = told.filter((/** @type {any} */ turn) => turn.role !== "system");
  const earlier = [];
  for (let at = 0; at + 2 < turns.length; at += 2) earlier.push({ prompt: turns[at].content, text: turns[at + 1].content });
  const options = { system: told.find((/** @type {any} */ turn) => turn.role === "system")?.content ?? "" };
  await compare({ clips, prompt: turns[turns.length - 1].content, options, adapter: names.join(","), earlier }, names.length, onEvent, signal);
}
