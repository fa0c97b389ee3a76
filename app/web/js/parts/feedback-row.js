/** One row of the data: the question with its recordings, the answer, the verdict on it; to be changed or deleted. */
import { exclude, judgeAgain, kindOf } from "../feedback.js";
import * as format from "../format.js";
import { t } from "../i18n.js";
import { html, useState } from "../ui.js";
import { Badge, ErrorNote } from "./basics.js";
import { VerdictBadge, VerdictForm } from "./feedback.js";
import { FetchedPlayer } from "./fetched-player.js";

const MARK = /<audio>/g; // of a recording in a question

/** @param {{row: any, onChange: () => void, onDelete: () => void}} props */
export function FeedbackRow({ row, onChange, onDelete }) {
  const [editing, setEditing] = useState(false);
  const [error, setError] = useState(/** @type {any} */ (null));
  const edit = async (/** @type {any} */ verdict) => { await judgeAgain(row.id, verdict); setEditing(false); onChange(); };
  const leaveOut = async () => {
    setError(null);
    try { await exclude(row.id, !row.excluded); onChange(); } catch (problem) { setError(problem); }
  };
  return html`
    <li class="panel data-row">
      <header class="line">
        <h2>${titleOf(row)}</h2><${VerdictBadge} row=${row} />
        ${row.unusable && html`<${Badge} kind="warn">${t(`rows.unusable.${row.unusable}`)}<//>`}
        <span class="numbers small muted">${format.date(row.time)}</span>
      </header>
      <${Recordings} row=${row} />
      <dl class="pairs">
        ${row.messages.map((turn) => html`<div><dt>${t(`rows.turn.${turn.role}`)}</dt><dd>${turn.content.replace(MARK, "").trim() || "–"}</dd></div>`)}
        <div><dt>${t("answer")}</dt><dd data-testid="row-answer">${row.answer || t("answer.empty")}</dd></div>
        ${kindOf(row) === "corrected" && html`<div><dt>${t("verdict.text")}</dt><dd data-testid="row-corrected">${row.corrected}</dd></div>`}
      </dl>
      ${editing && html`<${VerdictForm} answer=${row.answer} row=${row} onSend=${edit} onCancel=${() => setEditing(false)} />`}
      <${ErrorNote} error=${error} />
      ${!editing && html`
        <div class="actions">
          <button type="button" class="quiet small" onClick=${() => setEditing(true)}>${t("rows.edit")}</button>
          <button type="button" class="quiet small" onClick=${leaveOut}>${t(row.excluded ? "rows.include" : "rows.exclude")}</button>
          <button type="button" class="quiet small danger" onClick=${onDelete}>${t("rows.delete")}</button>
        </div>`}
    </li>`;
}

/** Who answered, in which version. @param {any} row */
const titleOf = ({ adapters }) => adapters.map(({ name, version, weight }) =>
  [name, ...(version ? [`v${version}`] : []), ...(adapters.length > 1 ? [format.number(weight, 2)] : [])].join(" ")).join(" + ") || t("choice.base");

/** @param {{row: any}} props */
function Recordings({ row: { id, recordings } }) {
  if (!recordings.length) return html`<p class="hint">${t("rows.no-recording")}</p>`;
  if (!recordings.some((one) => one.kept)) return html`<p class="hint">${t("rows.not-kept")}</p>`;
  return html`
    <div class="offenders">${recordings.map(({ kept, kind }, at) => kept && html`
      <${FetchedPlayer} key=${at} path=${`/feedback/${id}/recording?index=${at}`} name=${`${t("rows.recording", { number: at + 1 })}.${kind}`} />`)}</div>`;
}
