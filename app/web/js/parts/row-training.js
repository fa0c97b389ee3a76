/** How to train on rows: passes over them, more data beside them, and what training begins with. */
import { fetchJson } from "../api.js";
import { t } from "../i18n.js";
import { html, useEffect, useState } from "../ui.js";
import { Field } from "./basics.js";
import { KnownSource, useKnown } from "./dataset-source.js";

/**
 * @typedef {object} HowToTrain
 * @property {string} epochs  empty: the usual
 * @property {boolean} goesOn  from the version that answers now
 * @property {import("../jobs.js").Source | null} beside  more rows
 */

/** @type {HowToTrain} */
export const USUAL = { epochs: "", goesOn: false, beside: null };

/** @param {{how: HowToTrain, current: any, shown: boolean, onChange: (how: HowToTrain) => void}} props  ``current``: the adapter that has the name */
export function RowTraining({ how, current, shown, onChange }) {
  const known = useKnown(shown);
  const [jobs, setJobs] = useState(/** @type {any[]} */ ([]));
  useEffect(() => {
    if (shown) fetchJson("/training/jobs").then((told) => setJobs(told.jobs.filter((/** @type {any} */ job) => !job.options.check))).catch(() => setJobs([]));
  }, [shown]);
  return html`
    <div class="fields">
      <${Field} label=${t("train.epochs")} hint=${t("rows.epochs")}>
        <input type="number" min="0.1" max="1000" step="any" placeholder="3" value=${how.epochs} onInput=${(event) => onChange({ ...how, epochs: event.currentTarget.value })} />
      <//>
      ${known.length + jobs.length > 0 && html`
        <${Field} label=${t("rows.beside")} hint=${t("rows.beside.what")}>
          <${KnownSource} source=${how.beside} known=${known} jobs=${jobs} none=${t("rows.beside.none")} onChange=${(beside) => onChange({ ...how, beside })} />
        <//>`}
    </div>
    ${current?.version && current.manifest?.method !== "head" && html`
      <label class="check"><input type="checkbox" checked=${how.goesOn} onChange=${(event) => onChange({ ...how, goesOn: event.currentTarget.checked })} />
        <span>${t("rows.goes-on", { name: current.name, version: current.version })}</span></label>`}`;
}
