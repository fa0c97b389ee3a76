/** Train: data, check, settings, start; and every job there is. */
import { fetchJson, isAbort } from "../api.js";
import * as format from "../format.js";
import { t } from "../i18n.js";
import { cancel, isOver, purge, resume, submit, useJob } from "../jobs.js";
import { refresh } from "../live.js";
import { Dialog, Empty, ErrorNote, Progress } from "../parts/basics.js";
import { DatasetSource, sourceName } from "../parts/dataset-source.js";
import { Estimate } from "../parts/estimate.js";
import { GateReport } from "../parts/gate-report.js";
import { JobPanel, StateBadge } from "../parts/job-panel.js";
import { SETTINGS, TrainSettings, wanted } from "../parts/train-settings.js";
import { nameFrom } from "../parts/upload-adapter.js";
import { html, useEffect, useRef, useState } from "../ui.js";

const MEASURED = ["method", "preset", "rank", "batch_size"]; // settings that an estimate depends on, besides the epochs
const PERIOD_MS = 3000;

/** @param {{shown: boolean}} props */
export function Train({ shown }) {
  const [jobs, setJobs] = useState(/** @type {any[]} */ ([]));
  const [source, setSource] = useState(/** @type {any} */ (null));
  const [settings, setSettings] = useState(SETTINGS);
  const [allowed, setAllowed] = useState(/** @type {string[]} */ ([]));
  const [checkId, setCheckId] = useState(/** @type {string | null} */ (null));
  const [jobId, setJobId] = useState(/** @type {string | null} */ (null));
  const [round, setRound] = useState(0);
  const [share, setShare] = useState(/** @type {number | null} */ (null));
  const [error, setError] = useState(/** @type {any} */ (null));
  const [doomed, setDoomed] = useState(/** @type {string | null} */ (null));
  const sending = useRef(/** @type {AbortController | null} */ (null));
  const check = useJob(checkId);
  const watched = useJob(jobId, round);

  const list = () => fetchJson("/training/jobs").then((told) => setJobs(told.jobs)).catch(() => {}); // told above every view
  useEffect(() => {
    if (!shown) return undefined;
    list();
    const timer = setInterval(list, PERIOD_MS);
    return () => clearInterval(timer);
  }, [shown]);
  const state = watched.job?.state;
  useEffect(() => { list(); if (state === "succeeded") refresh(); }, [state]);

  const take = (next) => {
    setSource(next);
    setCheckId(null);
    setAllowed([]);
    setError(null);
    if (next && !settings.name) setSettings({ ...settings, name: next.kind === "job" ? "" : nameFrom(sourceName(next).split("/").pop() ?? "") });
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
      else setJobId(job.id);
      list();
    } catch (problem) {
      if (!isAbort(problem)) setError(problem);
    }
    setShare(null);
  };
  const act = async (work) => { setError(null); try { await work(); } catch (problem) { setError(problem); } list(); };

  const trained = jobs.filter((job) => !job.options.check);
  const sending_ = share !== null;
  const checking = check.job && !isOver(check.job);
  const changed = check.job && MEASURED.some((name) => String(check.job.options[name] ?? "") !== String(wanted(settings)[name] ?? ""));
  return html`
    <div class="two even">
      <form class="panel ask" aria-label=${t("train.new")} onSubmit=${(event) => { event.preventDefault(); start(event.submitter?.value === "check"); }}>
        <${DatasetSource} source=${source} jobs=${trained} shown=${shown} disabled=${sending_ || checking} onChange=${take} />
        <${TrainSettings} settings=${settings} onChange=${setSettings} />
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
        <section class="panel" aria-label=${t("jobs")}>
          <h2>${t("jobs")}</h2>
          ${trained.length === 0 ? html`<${Empty} title=${t("jobs.none")}>${t("jobs.none.how")}<//>` : html`
            <ol class="job-list">${trained.map((job) => html`
              <li key=${job.id}><button type="button" class="row" aria-current=${job.id === jobId ? "true" : undefined} onClick=${() => setJobId(job.id)}>
                <span class="numbers muted">${format.date(job.created)}</span><span class="name">${job.name}</span><${StateBadge} job=${job} /></button></li>`)}</ol>`}
        </section>
      </div>
    </div>
    ${doomed && html`
      <${Dialog} title=${t("job.delete.title")} confirm=${t("job.delete")} tone="danger" onClose=${() => setDoomed(null)}
        onConfirm=${() => { const id = doomed; setDoomed(null); act(async () => { await purge(id); setJobId(null); }); }}>
        <p>${t("job.delete.what")}</p>
      <//>`}`;
}

/** What came of judging the data. */
function Check({ watched, settings, changed, allowed, onAllow, onCancel }) {
  const { job, error } = watched;
  if (!job) return html`<${ErrorNote} error=${error} />`;
  const words = job.state === "queued" ? t("job.position", { position: job.position ?? "" }) : t(job.told.gate ? "check.measuring" : "job.checking");
  return html`
    ${!isOver(job) && html`<div class="line"><${Progress} label=${words} /><button type="button" class="quiet" onClick=${onCancel}>${t("cancel")}</button></div>`}
    ${isOver(job) && !["succeeded", "cancelled"].includes(job.state) && job.error && html`<${ErrorNote} error=${{ message: job.error, problems: job.told.problems }} />`}
    ${job.told.gate && html`<${GateReport} job=${job} allowed=${allowed} onAllow=${onAllow} />`}
    ${job.state === "succeeded" && html`<${Estimate} job=${job} epochs=${settings.epochs} changed=${changed} />`}`;
}
