/** What a run would take, measured from a few of its steps. */
import * as format from "../format.js";
import { t } from "../i18n.js";
import { html } from "../ui.js";

/**
 * @param {{job: any, epochs: string, changed: boolean}} props  ``changed``: settings other than the epochs are not those measured
 */
export function Estimate({ job, epochs, changed }) {
  const { estimate } = job.told;
  if (!estimate) return html`<p class="hint">${t("estimate.head")}</p>`;
  const then = job.options.epochs ?? 3;
  const scale = (Number(epochs) || 3) / then;
  const facts = [
    [t("estimate.time"), format.duration(estimate.training_seconds * scale + estimate.hearing_seconds)],
    [t("estimate.steps"), format.number(Math.max(1, Math.round(estimate.steps * scale)))],
    [t("estimate.parameters"), format.number(estimate.trainable)],
    [t("estimate.memory"), format.bytes(estimate.memory_gb * 1e9)],
  ];
  return html`
    <section class="estimate" aria-label=${t("estimate")}>
      <h3>${t("estimate")}</h3>
      <dl class="facts small-facts">${facts.map(([name, value]) => html`<div><dt>${name}</dt><dd class="numbers">${value}</dd></div>`)}</dl>
      <p class="hint">${t(changed ? "estimate.changed" : "estimate.what")}</p>
    </section>`;
}
