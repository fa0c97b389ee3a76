/** Several runs over each other: their curves in one chart, their figures in one table. */
import * as format from "../format.js";
import { t } from "../i18n.js";
import { useJobs } from "../jobs.js";
import { html, useState } from "../ui.js";
import { Choice, ErrorNote } from "./basics.js";
import { Chart } from "./chart.js";
import { headline } from "./figures.js";

export const MOST_RUNS = 5; // as many as there are colours

/** @param {{jobs: any[]}} props  as the list has them, in the order of their colours */
export function Runs({ jobs }) {
  const [kind, setKind] = useState("held");
  const all = useJobs(jobs.map((job) => job.id));
  const runs = jobs.map((job) => ({ job: all.get(job.id)?.job ?? job, steps: all.get(job.id)?.steps ?? [], evaluations: all.get(job.id)?.evaluations ?? [], error: all.get(job.id)?.error }));
  const pointsOf = ({ steps, evaluations }) => (kind === "held"
    ? evaluations.map((one) => [one.step, one.loss])
    : steps.filter((one) => typeof one[kind] === "number").map((one) => [one.step, one[kind]]));
  const lines = runs.map((run, at) => ({ name: nameOf(run.job), kind: `run-${at + 1}`, dots: kind === "held", points: pointsOf(run) }));
  const failed = runs.find((run) => run.error && !run.job.told);
  return html`
    <section class="panel job" aria-label=${t("runs")}>
      <h2>${t("runs")}</h2>
      <${ErrorNote} error=${failed?.error} />
      <div class="curves">
        <${Choice} legend=${t("curves")} name="runs-curve" value=${kind} onChange=${setKind}
          options=${[["held", t("runs.held")], ["loss", t("runs.train")], ["tokens_per_second", t("curve.tokens_per_second")]]} />
        <${Chart} lines=${lines} label=${t("runs")} xLabel=${t("curve.steps")} />
      </div>
      <div class="scroll" tabindex="0" role="group" aria-label=${t("runs.figures")}>
        <table class="figures">
          <thead><tr><th scope="col">${t("runs.run")}</th><th scope="col">${t("runs.best")}</th><th scope="col">${t("figures.held-out")}</th><th scope="col">${t("runs.rows")}</th><th scope="col">${t("runs.settings")}</th></tr></thead>
          <tbody>${runs.map(({ job }, at) => html`
            <tr key=${job.id}>
              <th scope="row"><span class=${`key run-${at + 1}`} aria-hidden="true"></span>${nameOf(job)}</th>
              <td class="numbers">${bestOf(job)}</td>
              <td class="numbers">${headline(job.told.metrics) || "–"}</td>
              <td class="numbers">${rowsOf(job)}</td><td>${settingsOf(job.options)}</td>
            </tr>`)}</tbody>
        </table>
      </div>
    </section>`;
}

/** Name, version where one was published, and when. @param {any} job */
const nameOf = ({ name, created, told }) => [`${name}${told.adapter ? ` v${told.adapter.version}` : ""}`, format.date(created)].join(" · ");

/** @param {any} job */
function rowsOf({ told }) {
  const rows = told.started?.rows;
  return rows ? `${format.number(rows.train)} + ${format.number(rows.validation)}` : "–";
}

/** @param {any} job */
function bestOf({ told }) {
  const best = told.metrics?.loss?.best ?? told.evaluation?.loss;
  return typeof best === "number" ? format.number(best, 3) : "–";
}

/** @param {any} options */
function settingsOf(options) {
  const { method, preset, rank, epochs, learning_rate: rate, weights } = options;
  return [
    t(`method.${method}`), ...(preset ? [t(`train.preset.${preset}`)] : []), ...(rank ? [`r ${rank}`] : []),
    ...(epochs ? [`${t("train.epochs")} ${epochs}`] : []), ...(rate ? [String(rate)] : []), ...(weights ? [weights] : []),
  ].join(" · ");
}
