/** What can be done with all chosen rows: train on them, check them, export them. */
import { exported } from "../feedback.js";
import * as format from "../format.js";
import { t } from "../i18n.js";
import { cancel, isOver, submit } from "../jobs.js";
import { live } from "../live.js";
import { useStore } from "../store.js";
import { html, useState } from "../ui.js";
import { ErrorNote, Field, Progress } from "./basics.js";
import { GateReport } from "./gate-report.js";
import { problemOf } from "./job-panel.js";
import { RowTraining, USUAL } from "./row-training.js";
import { save } from "./save.js";

const LEAST = 2; // rows, without others beside them: one is held out
const CHECK = "feedback-check"; // name of a check's job where the adapter has none yet

/**
 * ``whole``: the rows that training would take. ``check``: the data check that was asked for here, as it goes on.
 * @param {{shown: boolean, by: string, whole: any, seen: any[], name: string, check: import("../jobs.js").Watched, onBy: (by: string) => void, onName: (name: string) => void, onCheck: (id: string) => void, onError: (problem: any) => void}} props
 */
export function UseRows({ shown, by, whole, seen, name, check, onBy, onName, onCheck, onError }) {
  const { adapters } = useStore(live);
  const [busy, setBusy] = useState(false);
  const [how, setHow] = useState(USUAL);
  const names = [...new Set([...adapters.map((one) => one.name), ...seen.flatMap((row) => row.adapters.map((part) => part.name)), ...(by && by !== "base" ? [by] : [])])];
  const usable = whole?.usable ?? 0;
  const least = how.beside ? 1 : LEAST;
  const current = adapters.find((one) => one.name === name);
  const choose = (/** @type {string} */ next) => { onBy(next); if (next && next !== "base") onName(next); };
  const guarded = async (/** @type {() => Promise<void>} */ work) => {
    setBusy(true);
    onError(null);
    try { await work(); } catch (problem) { onError(problem); }
    setBusy(false);
  };
  const send = (/** @type {Record<string, any>} */ options) => submit({ kind: "feedback", adapter: by, beside: how.beside }, options, () => {}, new AbortController().signal);
  const train = (event) => {
    event.preventDefault();
    guarded(async () => { location.hash = `#/train?job=${(await send({ name, epochs: how.epochs, start: how.goesOn && current ? "current" : "" })).id}`; });
  };
  const look = () => guarded(async () => onCheck((await send({ name: name.trim() || CHECK, check: true })).id));
  const checking = check.job && !isOver(check.job);
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
          <input type="text" required maxlength="64" value=${name} onInput=${(event) => onName(event.currentTarget.value)} />
        <//>
      </div>
      <details class="options"><summary>${t("options")}</summary>
        <${RowTraining} how=${how} current=${current} shown=${shown} onChange=${setHow} />
      </details>
      <p class="small">${t("rows.usable", { usable: format.number(usable), total: format.number(whole?.total ?? 0) })} ${t("rows.train.what")}</p>
      <div class="actions">
        <button type="submit" class="primary" disabled=${busy || usable < least || !name.trim()}>${t("rows.train")}</button>
        <button type="button" class="quiet" disabled=${busy || checking || usable < least} onClick=${look}>${t("train.check")}</button>
        <button type="button" class="quiet" disabled=${busy || usable < 1} onClick=${() => guarded(async () => save(await exported(by), "feedback.zip"))}>${t("rows.export")}</button>
        ${whole && usable < least ? html`<span class="hint">${t(how.beside ? "rows.train.one" : "rows.train.least")}</span>` : !name.trim() && html`<span class="hint">${t("rows.train.first")}</span>`}
      </div>
      <${Check} check=${check} onCancel=${() => guarded(() => cancel(check.job.id).then(() => {}))} />
    </form>`;
}

/** How the data check stands; its findings about single rows stand at these. */
function Check({ check: { job, error }, onCancel }) {
  if (!job) return html`<${ErrorNote} error=${error} />`;
  const { gate } = job.told;
  return html`
    ${!isOver(job) && html`<div class="line"><${Progress} label=${job.state === "queued" ? t("job.position", { position: job.position ?? "" }) : t(gate ? "check.measuring" : "job.checking")} />
      <button type="button" class="quiet" onClick=${onCancel}>${t("cancel")}</button></div>`}
    ${isOver(job) && !gate && job.state !== "cancelled" && html`<${ErrorNote} error=${problemOf(job)} />`}
    ${gate && html`<${GateReport} job=${job} />`}`;
}
