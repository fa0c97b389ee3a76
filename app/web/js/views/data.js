/** Data: answers that were judged, as rows to train on. */
import { isAbort } from "../api.js";
import { exported, forget, listed } from "../feedback.js";
import * as format from "../format.js";
import { t } from "../i18n.js";
import { submit } from "../jobs.js";
import { live } from "../live.js";
import { Dialog, Empty, ErrorNote, Field } from "../parts/basics.js";
import { FeedbackRow } from "../parts/feedback-row.js";
import { save } from "../parts/save.js";
import { useStore } from "../store.js";
import { html, useEffect, useState } from "../ui.js";

const PAGE = 50; // rows
const LEAST = 2; // rows: one is held out

/** @param {{shown: boolean}} props */
export function Data({ shown }) {
  const { readiness } = useStore(live);
  const [by, setBy] = useState(""); // who answered; empty: anyone
  const [wrong, setWrong] = useState(false);
  const [offset, setOffset] = useState(0);
  const [round, setRound] = useState(0);
  const [found, setFound] = useState(/** @type {any} */ (null));
  const [whole, setWhole] = useState(/** @type {any} */ (null)); // what training takes: the rows without the filter
  const [error, setError] = useState(/** @type {any} */ (null));
  const [doomed, setDoomed] = useState(/** @type {any} */ (null));
  const again = () => setRound((now) => now + 1);
  const off = readiness !== null && !readiness.feedback;

  useEffect(() => {
    if (!shown || off) return undefined;
    const stop = new AbortController();
    Promise.all([listed({ by, wrong, limit: PAGE, offset }, stop.signal), listed({ by, limit: 1 }, stop.signal)]).then(([rows, all]) => {
      if (!rows.rows.length && offset) setOffset(Math.max(0, offset - PAGE)); // the last one of this page was deleted
      setFound(rows);
      setWhole(all);
      setError(null);
    }).catch((problem) => { if (!isAbort(problem)) setError(problem); });
    return () => stop.abort();
  }, [shown, off, by, wrong, offset, round]);

  const remove = async () => {
    setDoomed(null);
    try { await forget(doomed.id); again(); } catch (problem) { setError(problem); }
  };
  if (off) return html`<${Empty} title=${t("rows.off")}>${t("rows.off.how")}<//>`;
  return html`
    <${UseRows} by=${by} whole=${whole} seen=${found?.rows ?? []} onBy=${(next) => { setBy(next); setOffset(0); }} onError=${setError} />
    <${ErrorNote} error=${error} onRetry=${again} />
    ${whole?.total > 0 && html`
      <div class="toolbar">
        <label class="check"><input type="checkbox" checked=${wrong} onChange=${(event) => { setWrong(event.currentTarget.checked); setOffset(0); }} /><span>${t("rows.wrong")}</span></label>
        <span class="line"><span class="numbers small muted" role="status">${t("rows.shown", { first: format.number(Math.min(offset + 1, found.total)), last: format.number(Math.min(offset + PAGE, found.total)), total: format.number(found.total) })}</span>
          ${offset > 0 && html`<button type="button" class="quiet small" onClick=${() => setOffset(Math.max(0, offset - PAGE))}>${t("rows.newer")}</button>`}
          ${offset + PAGE < found.total && html`<button type="button" class="quiet small" onClick=${() => setOffset(offset + PAGE)}>${t("rows.older")}</button>`}</span>
      </div>`}
    ${found && (found.rows.length
      ? html`<ol class="stack" aria-label=${t("rows")}>${found.rows.map((row) => html`<${FeedbackRow} key=${row.id} row=${row} onChange=${again} onDelete=${() => setDoomed(row)} />`)}</ol>`
      : html`<${Empty} title=${t("rows.none")}>${t(wrong || by ? "rows.none.filter" : "rows.none.how")}<//>`)}
    ${doomed && html`
      <${Dialog} title=${t("rows.delete.title")} confirm=${t("rows.delete")} tone="danger" onClose=${() => setDoomed(null)} onConfirm=${remove}>
        <p>${t("rows.delete.what")}</p>
      <//>`}`;
}

/** Which rows, and what can be done with all of them. */
function UseRows({ by, whole, seen, onBy, onError }) {
  const { adapters } = useStore(live);
  const [name, setName] = useState("");
  const [busy, setBusy] = useState(false);
  const names = [...new Set([...adapters.map((one) => one.name), ...seen.flatMap((row) => row.adapters.map((part) => part.name)), ...(by && by !== "base" ? [by] : [])])];
  const usable = whole?.usable ?? 0;
  const choose = (/** @type {string} */ next) => { onBy(next); if (next && next !== "base") setName(next); };
  const guarded = async (/** @type {() => Promise<void>} */ work) => {
    setBusy(true);
    onError(null);
    try { await work(); } catch (problem) { onError(problem); }
    setBusy(false);
  };
  const train = (event) => {
    event.preventDefault();
    guarded(async () => {
      const job = await submit({ kind: "feedback", adapter: by }, { name }, () => {}, new AbortController().signal);
      location.hash = `#/train?job=${job.id}`;
    });
  };
  return html`
    <form class="panel ask" aria-label=${t("rows.use")} onSubmit=${train}>
      <div class="fields wide-fields">
        <${Field} label=${t("rows.by")}>
          <select value=${by} onChange=${(event) => choose(event.currentTarget.value)}>
            <option value="">${t("rows.by.all")}</option><option value="base">${t("choice.base")}</option>
            ${names.map((one) => html`<option value=${one}>${one}</option>`)}
          </select>
        <//>
        <${Field} label=${t("train.name")} hint=${t("train.name.hint")}>
          <input type="text" required maxlength="64" value=${name} onInput=${(event) => setName(event.currentTarget.value)} />
        <//>
      </div>
      <p class="small">${t("rows.usable", { usable: format.number(usable), total: format.number(whole?.total ?? 0) })} ${t("rows.train.what")}</p>
      <div class="actions">
        <button type="submit" class="primary" disabled=${busy || usable < LEAST || !name.trim()}>${t("rows.train")}</button>
        <button type="button" class="quiet" disabled=${busy || usable < 1} onClick=${() => guarded(async () => save(await exported(by), "feedback.zip"))}>${t("rows.export")}</button>
        ${whole && usable < LEAST ? html`<span class="hint">${t("rows.train.least")}</span>` : !name.trim() && html`<span class="hint">${t("rows.train.first")}</span>`}
      </div>
    </form>`;
}
