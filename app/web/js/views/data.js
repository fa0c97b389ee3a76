/** Data: answers that were judged, and drafts to be judged, as rows to train on. */
import { isAbort } from "../api.js";
import { forget, listed } from "../feedback.js";
import * as format from "../format.js";
import { t } from "../i18n.js";
import { useJob } from "../jobs.js";
import { live, speakers } from "../live.js";
import { Dialog, Empty, ErrorNote } from "../parts/basics.js";
import { FeedbackRow } from "../parts/feedback-row.js";
import { LabelClips } from "../parts/label-clips.js";
import { UseRows } from "../parts/use-rows.js";
import { useStore } from "../store.js";
import { html, useEffect, useState } from "../ui.js";

const PAGE = 50; // rows
const WHICH = /** @type {import("../feedback.js").Which[]} */ (["", "wrong", "draft"]);

/** @param {{shown: boolean}} props */
export function Data({ shown }) {
  const { adapters, readiness } = useStore(live);
  const [by, setBy] = useState(""); // who answered; empty: anyone
  const [name, setName] = useState(""); // of the adapter to train
  const [which, setWhich] = useState(/** @type {import("../feedback.js").Which} */ (""));
  const [offset, setOffset] = useState(0);
  const [round, setRound] = useState(0);
  const [found, setFound] = useState(/** @type {any} */ (null));
  const [whole, setWhole] = useState(/** @type {any} */ (null)); // what training takes: the rows without the filter
  const [error, setError] = useState(/** @type {any} */ (null));
  const [doomed, setDoomed] = useState(/** @type {any} */ (null));
  const [checkId, setCheckId] = useState(/** @type {string | null} */ (null));
  const check = useJob(checkId);
  const again = () => setRound((now) => now + 1);
  const off = readiness !== null && !readiness.feedback;

  useEffect(() => {
    if (!shown || off) return undefined;
    const stop = new AbortController();
    Promise.all([listed({ by, which, limit: PAGE, offset }, stop.signal), listed({ by, limit: 1 }, stop.signal)]).then(([rows, all]) => {
      if (!rows.rows.length && offset) setOffset(Math.max(0, offset - PAGE)); // the last one of this page was deleted
      setFound(rows);
      setWhole(all);
      setError(null);
    }).catch((problem) => { if (!isAbort(problem)) setError(problem); });
    return () => stop.abort();
  }, [shown, off, by, which, offset, round]);

  const remove = async () => {
    setDoomed(null);
    try { await forget(doomed.id); again(); } catch (problem) { setError(problem); }
  };
  const show = (/** @type {string} */ next) => { setWhich(/** @type {import("../feedback.js").Which} */ (next)); setOffset(0); };
  if (off) return html`<${Empty} title=${t("rows.off")}>${t("rows.off.how")}<//>`;
  const served = speakers(adapters).map((one) => one.name);
  return html`
    <${LabelClips} onDrafts=${again} />
    <${UseRows} shown=${shown} by=${by} whole=${whole} seen=${found?.rows ?? []} name=${name} check=${check} onBy=${(next) => { setBy(next); setOffset(0); setCheckId(null); }}
      onName=${setName} onCheck=${setCheckId} onError=${setError} />
    <${ErrorNote} error=${error} onRetry=${again} />
    ${whole?.total > 0 && html`
      <div class="toolbar">
        <label class="line"><span class="label">${t("rows.which")}</span>
          <select value=${which} onChange=${(event) => show(event.currentTarget.value)}>${WHICH.map((one) => html`<option value=${one}>${t(`rows.which.${one || "all"}`)}</option>`)}</select></label>
        <span class="line"><span class="numbers small muted" role="status">${t("rows.shown", { first: format.number(Math.min(offset + 1, found.total)), last: format.number(Math.min(offset + PAGE, found.total)), total: format.number(found.total) })}</span>
          ${offset > 0 && html`<button type="button" class="quiet small" onClick=${() => setOffset(Math.max(0, offset - PAGE))}>${t("rows.newer")}</button>`}
          ${offset + PAGE < found.total && html`<button type="button" class="quiet small" onClick=${() => setOffset(offset + PAGE)}>${t("rows.older")}</button>`}</span>
      </div>`}
    ${found && (found.rows.length
      ? html`<ol class="stack" aria-label=${t("rows")}>${found.rows.map((row) => html`
        <${FeedbackRow} key=${row.id} row=${row} findings=${findingsAt(row, check.job)} beside=${name} served=${served} onChange=${again} onDelete=${() => setDoomed(row)} />`)}</ol>`
      : html`<${Empty} title=${t("rows.none")}>${t(which || by ? "rows.none.filter" : "rows.none.how")}<//>`)}
    ${doomed && html`
      <${Dialog} title=${t("rows.delete.title")} confirm=${t("rows.delete")} tone="danger" onClose=${() => setDoomed(null)} onConfirm=${remove}>
        <p>${t("rows.delete.what")}</p>
      <//>`}`;
}

/** What the data check found about a row: its recordings are named after it. @param {any} row @param {any} job @returns {any[]} */
const findingsAt = (row, job) =>
  (job?.told.gate?.report.findings ?? []).filter(({ recordings = [] }) => recordings.some((/** @type {string} */ name) => name.startsWith(`audio/${row.id}-`)));
