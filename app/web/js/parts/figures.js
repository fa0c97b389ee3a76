/** Figures of base and adapter on the same held-out rows, side by side. */
import * as format from "../format.js";
import { known, t } from "../i18n.js";
import { html } from "../ui.js";

const LESS_IS_BETTER = /wer|cer|error|loss|calibration/;

/**
 * Names of the figures in ``side``: numbers that are no interval's end.
 * @param {Record<string, any>} side
 */
const names = (side) => Object.keys(side ?? {}).filter((name) => typeof side[name] === "number");

/** Percentages are stored as shares, or as percent where the name says so. @param {string} name @param {number} value */
const told = (name, value) => (name.endsWith("_percent") ? `${format.number(value, 1)} %` : format.percent(value));

/** @param {string} name */
const title = (name) => known(`figure.${name.replace(/_percent$/, "")}`, name.replace(/_percent$/, "").replaceAll("_", " "));

/** @param {{metrics: any}} props */
export function Figures({ metrics }) {
  const { before = {}, after = {} } = metrics ?? {};
  const rows = names(after);
  if (!rows.length) return html`<p class="hint">${t("figures.none")}</p>`;
  return html`
    <div class="scroll" tabindex="0" role="group" aria-label=${t("figures")}>
      <table class="figures">
        <thead><tr><th scope="col">${t("figures")}</th><th scope="col">${t("figures.base")}</th><th scope="col">${t("figures.adapter")}</th></tr></thead>
        <tbody>${rows.map((name) => html`
          <tr>
            <th scope="row">${title(name)}</th>
            <td class="numbers">${typeof before[name] === "number" ? told(name, before[name]) : "–"}</td>
            <td class=${`numbers ${better(name, before[name], after[name])}`}>${told(name, after[name])}
              ${after[`${name}_range`] && html`<span class="small muted"> (${after[`${name}_range`].map((end) => format.number(100 * end, 1)).join("–")})</span>`}</td>
          </tr>`)}</tbody>
      </table>
    </div>
    ${metrics.data && html`<p class="hint">${t("figures.on", { data: metrics.data })}</p>`}`;
}

/** @param {string} name */
function better(name, before, after) {
  if (typeof before !== "number" || before === after) return "";
  return before < after === !LESS_IS_BETTER.test(name) ? "better" : "worse";
}

/** The figure that says most, in one line. @param {any} metrics */
export function headline(metrics) {
  const { before = {}, after = {} } = metrics ?? {};
  const judged = metrics?.judged_by;
  const name = typeof after[judged] === "number" ? judged : names(after)[0];
  if (!name) return "";
  const from = typeof before[name] === "number" ? `${told(name, before[name])} → ` : "";
  return `${title(name)} ${from}${told(name, after[name])}`;
}
