/** Train: data, check, settings, start; and every job there is. */
import { fetchJson, isAbort } from "../api.js";
import * as format from "../format.js";
import { t } from "../i18n.js";
import { cancel, isOver, purge, resume, submit, useJob } from "../jobs.js";
import { live, refresh } from "../live.js";
import { Badge, Dialog, Empty, ErrorNote, Progress } from "../parts/basics.js";
import { DatasetSource, sourceName } from "../parts/dataset-source.js";
import { Estimate } from "../parts/estimate.js";
import { GateReport } from "../parts/gate-report.js";
import { JobPanel, StateBadge, problemOf } from "../parts/job-panel.js";
import { MOST_RUNS, Runs } from "../parts/runs.js";
import { SETTINGS, TrainSettings, wanted } from "../parts/train-settings.js";
import { ofUpload } from "../problem-words.js";
import { remember, remembered, useStore } from "../store.js";
import { useSuggestedName } from "../suggested-name.js";
import { useLink } from "../try-form.js";
import { html, useEffect, useRef, useState } from "../ui.js";

const MEASURED = ["method", "preset", "rank", "batch_size", "weights"]; // settings that an estimate depends on, besides the epochs
const PERIOD_MS = 3000;

/** The job to show after a reload: the one that was open while it runs, any that runs, else the one that was open. */
function reopened(jobs) {
  const known = remembered("job");
  const last = jobs.find((job) => job.id === known);
  const running = jobs.filter((job) => !isOver(job));
  return (running.find((job) => job.id === known) ?? running[0] ?? last)?.id ?? null;
}

/** Whether a job has steps to draw. @param {any} job */
const hasCurves = ({ options, told }) => !options.check && Boolean(told.progress);

/** The end of a source's path. */
const baseName = (source) => sourceName(source).split("/").pop() ?? "";

/** @param {{query: URLSearchParams, shown: boolean}} props */
export function Train({ query, shown }) {
  const [jobs, setJobs] = useState(/** @type {any[]} */ ([]));
  const [source, setSource] = useState(/** @type {any} */ (null));
  const [set, setSettings] = useState(SETTINGS);
  const { name, type, suggest } = useSuggestedName();
  const settings = { ...set, name };
  const [allowed, setAllowed] = useState(/** @type {string[]} */ ([]));
  const [checkId, setCheckId] = useState(/** @type {string | null} */ (null));
  const [jobId, setJobId] = useState(/** @type {string | null} */ (null));
  const [round, setRound] = useState(0);
  const [share, setShare] = useState(/** @type {number | null} */ (null));
  const [error, setError] = useState(/** @type {any} */ (null));
  const [over, setOver] = useState(/** @type {string[]} */ ([])); // runs that are laid over each other
  const [doomed, setDoomed] = useState(/** @type {string | null} */ (null));
  const sending = useRef(/** @type {AbortController | null} */ (null));
  const check = useJob(checkId);
  const watched = useJob(jobId, round);

  const { adapters } = useStore(live);
  const open = (id) => { setJobId(id); remember("job", id); };
  useLink(shown ? query : null, (link) => { if (link.get("job")) open(link.get("job")); });
  const opened = useRef(false);
  const take = (found) => {
    setJobs(found);
    if (!opened.current) setJobId((now) => now ?? reopened(found)); // after a reload
    opened.current = true;
  };
  const list = () => fetchJson("/training/jobs").then((told) => take(told.jobs)).catch(() => {}); // told above every view
  useEffect(() => {
    if (!shown) return undefined;
    list();
    const timer = setInterval(list, PERIOD_MS);
    return () => clearInterval(timer);
  }, [shown]);
  const state = watched.job?.state;
  useEffect(() => { list(); if (state === "succeeded") refresh(); }, [state]);

  const choose = (next) => {
    setSource(next);
    setCheckId(null);
    setAllowed([]);
    setError(null);
    if (next) suggest(next.kind === "job" ? jobs.find((job) => job.id === next.id)?.name ?? "" : baseName(next));
  };
  /** @param {boolean} checking */
  const start = async (checking) => {
    setError(null);
    sending.current = new AbortController();
    setShare(0);
    // what has been sent for a check is not sent again
    const from = checkId ? { kind: "job", id: checkId } : source;
    try {
      const job = await submit(from, { ...wanted(settings), allow: from.kind === "upload" ? allowed.join(",") : allowed, ...(checking ? { check: true } : {}) }, setShare, sending.current.signal);
      if (checking) setCheckId(job.id);
      else open(job.id);
      list();
    } catch (problem) {
      if (!isAbort(problem)) setError(from.kind === "upload" ? ofUpload(problem, "dataset_file") : problem);
    }
    setShare(null);
  };
  const overlaid = over.flatMap((id) => jobs.find((job) => job.id === id) ?? []);
  const lay = (id, on) => setOver(on ? [...over, id] : over.filter((one) => one !== id));
  const act = async (work) => { setError(null); try { await work(); } catch (problem) { setError(problem); } list(); };

  const forget = (id) => {
    open(null);
    if (checkId === id) setCheckId(null);
    if (source?.id === id) setSource(null);
  };
  const sending_ = share !== null;
  const checking = check.job && !isOver(check.job);
  const changed = check.job && MEASURED.some((name) => String(check.job.options[name] ?? "") !== String(wanted(settings)[name] ?? ""));
  return html`
    <div class="two even">
      <form class="panel ask" aria-label=${t("train.new")} onSubmit=${(event) => { event.preventDefault(); start(event.submitter?.value === "check"); }}>
        <${DatasetSource} source=${source} jobs=${jobs} shown=${shown} disabled=${sending_ || checking} onChange=${choose} />
        <${TrainSettings} settings=${settings} replaced=${adapters.find((one) => one.name === name)} onChange=${(next) => { setSettings(next); type(next.name); }} />
        <div class="actions">
          <button type="submit" value="train" class="primary" disabled=${!source || sending_ || checking}>${t("train.go")}</button>
          <button type="submit" value="check" class="quiet" disabled=${!source || sending_ || checking}>${t("train.check")}</button>
          ${!source && html`<span class="hint">${t("train.first")}</span>`}
        </div>
        ${sending_ && html`<div class="line"><${Progress} label=${t("upload.sending")} share=${share < 1 ? share : null} /><button type="button" class="quiet" onClick=${() => sending.current?.abort()}>${t("cancel")}</button></div>`}
        <${ErrorNote} error=${error} />
        <${Check} watched=${check} settings=${settings} changed=${changed} allowed=${allowed} onAllow=${setAllowed} onCancel=${() => act(() => cancel(checkId))} />
      </form>
      <div class="stack">
        ${jobId && html`<${JobPanel} watched=${watched} onCancel=${() => act(() => cancel(jobId))} onDelete=${() => setDoomed(jobId)}
          onResume=${() => act(async () => { await resume(jobId); setRound(round + 1); })} />`}
        ${overlaid.length > 1 && html`<${Runs} jobs=${overlaid} />`}
        <section class="panel" aria-label=${t("jobs")}>
          <h2>${t("jobs")}</h2>
          ${jobs.filter(hasCurves).length > 1 && html`<p class="hint">${t("runs.how", { most: MOST_RUNS })}</p>`}
          ${jobs.length === 0 ? html`<${Empty} title=${t("jobs.none")}>${t("jobs.none.how")}<//>` : html`
            <ol class="job-list">${jobs.map((job) => html`
              <li key=${job.id} class="line">
                <span class="bare">${hasCurves(job) && html`<input type="checkbox" aria-label=${t("runs.lay", { name: job.name, date: format.date(job.created) })} checked=${over.includes(job.id)}
                  disabled=${!over.includes(job.id) && overlaid.length >= MOST_RUNS} onChange=${(event) => lay(job.id, event.currentTarget.checked)} />`}</span><button type="button" class="row" aria-current=${job.id === jobId ? "true" : undefined} onClick=${() => open(job.id)}>
                <span class="numbers muted">${format.date(job.created)}</span><span class="name">${job.name}</span><span class="badges">${job.options.check && html`<${Badge}>${t("job.check")}<//>`}<${StateBadge} job=${job} /></span></button></li>`)}</ol>`}
        </section>
      </div>
    </div>
    ${doomed && html`
      <${Dialog} title=${t("job.delete.title")} confirm=${t("job.delete")} tone="danger" onClose=${() => setDoomed(null)}
        onConfirm=${() => { const id = doomed; setDoomed(null); act(async () => { await purge(id); forget(id); }); }}>
        <p>${t(watched.job?.options.check ? "job.delete.check" : "job.delete.what")}</p>
      <//>`}`;
}

/** What came of judging the data. */
function Check({ watched, settings, changed, allowed, onAllow, onCancel }) {
  const { job, error } = watched;
  if (!job) return html`<${ErrorNote} error=${error} />`;
  const words = job.state === "queued" ? t("job.position", { position: job.position ?? "" }) : t(job.told.gate ? "check.measuring" : "job.checking");
  return html`
    ${!isOver(job) && html`<div class="line"><${Progress} label=${words} /><button type="button" class="quiet" onClick=${onCancel}>${t("cancel")}</button></div>`}
    ${isOver(job) && !["succeeded", "cancelled"].includes(job.state) && html`<${ErrorNote} error=${problemOf(job)} />`}
    ${job.told.gate && html`<${GateReport} job=${job} allowed=${allowed} onAllow=${onAllow} />`}
    ${job.state === "succeeded" && html`<${Estimate} job=${job} epochs=${settings.epochs} changed=${changed} />`}`;
}
