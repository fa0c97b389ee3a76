/** One row of the data: the question with its recordings, the answer, the verdict on it; to be changed or deleted. */
import { exclude, judgeAgain, kindOf, setSplit } from "../feedback.js";
import * as format from "../format.js";
import { known, t } from "../i18n.js";
import { html, useState } from "../ui.js";
import { Badge, ErrorNote } from "./basics.js";
import { VerdictBadge, VerdictForm } from "./feedback.js";
import { FetchedPlayer } from "./fetched-player.js";
import { RowAnswers } from "./row-answers.js";

const MARK = /<audio>/g; // of a recording in a question
const SPLITS = ["auto", "train", "held_out"];

/**
 * ``findings``: of the data check, about this row. ``beside``: the adapter to ask beside the base model, where none answered.
 * @param {{row: any, findings: any[], beside: string, served: string[], onChange: () => void, onDelete: () => void}} props
 */
export function FeedbackRow({ row, findings, beside, served, onChange, onDelete }) {
  const [editing, setEditing] = useState(false);
  const [comparing, setComparing] = useState(false);
  const [error, setError] = useState(/** @type {any} */ (null));
  const edit = async (/** @type {any} */ verdict) => { await judgeAgain(row.id, verdict); setEditing(false); onChange(); };
  const change = async (/** @type {() => Promise<any>} */ work) => {
    setError(null);
    try { await work(); onChange(); } catch (problem) { setError(problem); }
  };
  const heard = row.recordings.length > 0 && row.recordings.every((/** @type {any} */ one) => one.kept);
  return html`
    <li class="panel data-row">
      <header class="line">
        <h2>${titleOf(row)}</h2><${VerdictBadge} row=${row} />
        ${row.unusable && row.unusable !== "draft" && html`<${Badge} kind="warn">${t(`rows.unusable.${row.unusable}`)}<//>`}
        <span class="numbers small muted">${format.date(row.time)}</span>
      </header>
      ${findings.length > 0 && html`<p class="line" role="group" aria-label=${t("rows.findings")}>${findings.map(({ code, severity }) => html`<${Badge} key=${code} kind=${severity === "error" ? "bad" : "warn"}>${known(`gate.code.${code}`, code)}<//>`)}</p>`}
      <${Recordings} row=${row} />
      <dl class="pairs">
        ${row.messages.map((turn) => html`<div><dt>${t(`rows.turn.${turn.role}`)}</dt><dd>${turn.content.replace(MARK, "").trim() || "–"}</dd></div>`)}
        <div><dt>${t(row.verdict === "draft" ? "rows.draft" : "answer")}</dt><dd data-testid="row-answer">${row.answer || t("answer.empty")}</dd></div>
        ${kindOf(row) === "corrected" && html`<div><dt>${t("verdict.text")}</dt><dd data-testid="row-corrected">${row.corrected}</dd></div>`}
      </dl>
      ${comparing && html`<${RowAnswers} row=${row} adapter=${besides(row, served, beside)} served=${served} />`}
      ${editing && html`<${VerdictForm} answer=${row.answer} row=${row} onSend=${edit} onCancel=${() => setEditing(false)} />`}
      <${ErrorNote} error=${error} />
      ${!editing && html`
        <div class="actions">
          ${row.verdict === "draft" && html`<button type="button" class="quiet small" onClick=${() => change(() => judgeAgain(row.id, { kind: "right", text: "" }))}>${t("rows.right")}</button>`}
          <button type="button" class="quiet small" onClick=${() => setEditing(true)}>${t("rows.edit")}</button>
          ${heard && html`<button type="button" class="quiet small" aria-expanded=${comparing} onClick=${() => setComparing(!comparing)}>${t("rows.compare")}</button>`}
          <button type="button" class="quiet small" onClick=${() => change(() => exclude(row.id, !row.excluded))}>${t(row.excluded ? "rows.include" : "rows.exclude")}</button>
          <label class="line split"><span class="small muted">${t("rows.split")}</span>
            <select value=${row.split ?? "auto"} onChange=${(event) => { const side = event.currentTarget.value; change(() => setSplit(row.id, side)); }}>
              ${SPLITS.map((one) => html`<option value=${one}>${t(`rows.split.${one}`)}</option>`)}
            </select></label>
          <button type="button" class="quiet small danger" onClick=${onDelete}>${t("rows.delete")}</button>
        </div>`}
    </li>`;
}

/** Who answered, in which version. @param {any} row */
const titleOf = ({ adapters }) => adapters.map(({ name, version, weight }) =>
  [name, ...(version ? [`v${version}`] : []), ...(adapters.length > 1 ? [format.number(weight, 2)] : [])].join(" ")).join(" + ") || t("choice.base");

/** The adapter or mix that answered, as comparisons write it, while it is served. @param {any} row @param {string[]} served @param {string} beside */
function besides({ adapters }, served, beside) {
  const own = adapters.every((/** @type {any} */ part) => served.includes(part.name)) ? adapters : [];
  if (own.length) return own.map((/** @type {any} */ { name, weight }) => (own.length > 1 || weight !== 1 ? `${name}:${weight}` : name)).join("+");
  return served.includes(beside) ? beside : "";
}

/** @param {{row: any}} props */
function Recordings({ row: { id, recordings } }) {
  if (!recordings.length) return html`<p class="hint">${t("rows.no-recording")}</p>`;
  if (!recordings.some((one) => one.kept)) return html`<p class="hint">${t("rows.not-kept")}</p>`;
  return html`
    <div class="offenders">${recordings.map(({ kept, kind }, at) => kept && html`
      <${FetchedPlayer} key=${at} path=${`/feedback/${id}/recording?index=${at}`} name=${`${t("rows.recording", { number: at + 1 })}.${kind}`} />`)}</div>`;
}
