/** One job: how far it is, its curves, what came of it, and what can be done with it. */
import * as format from "../format.js";
import { t } from "../i18n.js";
import { isOver } from "../jobs.js";
import { html, useState } from "../ui.js";
import { Badge, Choice, ErrorNote, Progress } from "./basics.js";
import { Chart } from "./chart.js";
import { Comparison } from "./comparison.js";
import { Estimate } from "./estimate.js";
import { Figures } from "./figures.js";
import { GateReport } from "./gate-report.js";
import { ServedNote } from "./served-note.js";

const KINDS = { succeeded: "good", failed: "bad", refused: "bad", cancelled: "", interrupted: "warn", running: "accent", queued: "" };

export const StateBadge = ({ job }) => html`<${Badge} kind=${KINDS[job.state]}>${t(job.stopping ? "job.stopping" : `job.${job.state}`)}<//>`;

/**
 * @param {{watched: import("../jobs.js").Watched, onCancel: () => void, onResume: () => void, onDelete: () => void}} props
 */
export function JobPanel({ watched, onCancel, onResume, onDelete }) {
  const { job, steps, evaluations, error } = watched;
  if (!job) return html`<section class="panel job"><${ErrorNote} error=${error} /></section>`;
  const { told } = job;
  const over = isOver(job);
  return html`
    <section class="panel job" aria-labelledby="job-title">
      <header class="panel-head">
        <h2 id="job-title">${job.name}</h2>${job.options.check && html`<${Badge}>${t("job.check")}<//>`}<${StateBadge} job=${job} />
        ${!over && html`<button type="button" class="quiet" disabled=${job.stopping} onClick=${onCancel}>${t("job.cancel")}</button>`}
        ${(job.state === "cancelled" || job.state === "interrupted") && html`<button type="button" class="quiet" onClick=${onResume}>${t("job.resume")}</button>`}
        ${over && html`<button type="button" class="quiet danger" onClick=${onDelete}>${t("job.delete")}</button>`}
      </header>
      <${ErrorNote} error=${error} />
      ${!over && html`<${Going} job=${job} />`}
      ${over && job.state !== "succeeded" && (["cancelled", "interrupted"].includes(job.state)
        ? html`<p class="note plain">${t(`job.ended.${job.state}`)}</p>`
        : html`<${ErrorNote} error=${problemOf(job)} />`)}
      ${told.adapter && html`<${ServedNote} name=${told.adapter.name} version=${told.adapter.version} held=${told.adapter.promoted === false} />`}
      ${told.adapter && told.metrics?.comparison && html`<${Comparison} comparison=${told.metrics.comparison} name=${told.adapter.name} version=${told.adapter.version} />`}
      ${told.metrics && html`<h3>${t("job.result")}</h3><${Figures} metrics=${told.metrics} /><${Checks} metrics=${told.metrics} />`}
      ${steps.length + evaluations.length > 0 && html`<${Curves} steps=${steps} evaluations=${evaluations} />`}
      ${job.options.check && job.state === "succeeded" && html`<${Estimate} job=${job} epochs=${job.options.epochs ?? ""} changed=${false} />`}
      ${told.gate && job.options.check && html`<${GateReport} job=${job} />`}
      ${told.gate && !job.options.check && html`<details open=${!told.gate.ok}><summary>${t("gate")}</summary><${GateReport} job=${job} /></details>`}
    </section>`;
}

/** What is going on, and how long it will take. */
function Going({ job }) {
  const { progress, started, gate, exam } = job.told;
  if (job.state === "queued") return html`<${Progress} label=${t("job.position", { position: job.position ?? "" })} />`;
  if (exam?.side === "after") return html`<${Asked} exam=${exam} />`;
  if (progress) {
    const steps = progress.steps ?? started?.steps;
    return html`<${Progress} share=${steps ? progress.step / steps : null}
      label=${t("job.step", { step: format.number(progress.step), steps: format.number(steps ?? 0), left: format.duration(progress.eta_seconds ?? 0) })} />`;
  }
  if (exam && !started) return html`<${Asked} exam=${exam} />`;
  return html`<${Progress} label=${t(started ? "job.starting" : gate ? "job.before" : "job.checking")} />`;
}

/** The held-out questions, which take as long as they are many. */
const Asked = ({ exam: { side, done, total } }) => html`
  <${Progress} share=${total && done < total ? done / total : null}
    label=${t(done < total ? `job.exam.${side}` : side === "after" ? "job.publishing" : "job.starting", { done: format.number(done), total: format.number(total) })} />`;

/** Why a job failed or was refused, as an error. @param {any} job */
export const problemOf = ({ state, error, told }) =>
  (told.gate && !told.gate.ok
    ? { message: t("gate.stopped") } // the report under it has the findings
    : { message: error ?? "", code: told.code ?? `job_${state}`, problems: told.problems });

/** Does it listen, and what is left of the base. */
const Checks = ({ metrics: { listening, retention } }) => html`
  ${listening && html`<p class="small numbers">${t("job.listening", { share: format.percent(listening.changed, 0) })}</p>`}
  ${retention && html`<p class="small numbers">${t("job.retention", { share: format.percent(retention.same, 0), rows: retention.rows })}</p>`}`;

function Curves({ steps, evaluations }) {
  const [kind, setKind] = useState("loss");
  const of = (name) => steps.filter((one) => typeof one[name] === "number").map((one) => [one.step, one[name]]);
  const lines = kind === "loss"
    ? [
      { name: t("curve.train"), kind: "train", points: of("loss") },
      { name: t("curve.held"), kind: "held", dots: true, points: evaluations.map((one) => [one.step, one.loss]) },
    ]
    : [{ name: t(`curve.${kind}`), kind: "held", points: of(kind) }];
  const most = steps[steps.length - 1]?.steps ?? 0;
  return html`
    <div class="curves">
      <${Choice} legend=${t("curves")} name="curve" value=${kind} onChange=${setKind}
        options=${["loss", "tokens_per_second", "lr"].map((one) => [one, t(`curve.${one}`)])} />
      <${Chart} lines=${lines} label=${t(`curve.${kind}`)} xLabel=${t("curve.steps")} xMost=${most} />
    </div>`;
}
