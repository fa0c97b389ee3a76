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
export const figureValue = (name, value) => (name.endsWith("_percent") ? `${format.number(value, 1)} %` : format.percent(value));

/** @param {string} name */
export const figureTitle = (name) => known(`figure.${name.replace(/_percent$/, "")}`, name.replace(/_percent$/, "").replaceAll("_", " "));

/** Whether the figures are of the held-out rows of a training here, which it names in English. @param {any} metrics */
const heldOut = ({ data, rows }) => data === `${rows} held-out rows`;

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
            <th scope="row">${figureTitle(name)}</th>
            <td class="numbers">${typeof before[name] === "number" ? figureValue(name, before[name]) : "–"}</td>
            <td class=${`numbers ${better(name, before[name], after[name])}`}>${figureValue(name, after[name])}
              ${range(after, name, metrics.rows) && html`<span class="small muted"> (${range(after, name, metrics.rows).map((end) => format.number(100 * end, 1)).join("–")})</span>`}</td>
          </tr>`)}</tbody>
      </table>
    </div>
    ${metrics.data && html`<p class="hint">${heldOut(metrics) ? t("figures.held", { rows: format.number(metrics.rows) }) : t("figures.on", { data: metrics.data })}</p>`}`;
}

/**
 * The 95 % interval; Wilson's where one without width was stored, which earlier trainings did for rows that are all alike.
 * @param {Record<string, any>} side @param {string} name @param {number} [rows]
 * @returns {number[] | null}
 */
export function range(side, name, rows = 0) {
  const [low, high] = side[`${name}_range`] ?? [0, 0];
  if (low !== high) return [low, high];
  const share = side[name];
  if (!side[`${name}_range`] || !rows || share < 0 || share > 1) return null;
  const z2 = 1.959964 ** 2;
  const middle = (share + z2 / (2 * rows)) / (1 + z2 / rows);
  const half = Math.sqrt(z2 * ((share * (1 - share)) / rows + z2 / (4 * rows ** 2))) / (1 + z2 / rows);
  return [Math.max(0, middle - half), Math.min(1, middle + half)];
}

/** A class for the second of two values of a figure. @param {string} name @param {number} before @param {number} after */
export function better(name, before, after) {
  if (typeof before !== "number" || before === after) return "";
  return before < after === !LESS_IS_BETTER.test(name) ? "better" : "worse";
}

/** The figure that says most, in one line. @param {any} metrics */
export function headline(metrics) {
  const { before = {}, after = {} } = metrics ?? {};
  const judged = metrics?.judged_by;
  const name = typeof after[judged] === "number" ? judged : names(after)[0];
  if (!name) return "";
  const from = typeof before[name] === "number" ? `${figureValue(name, before[name])} → ` : "";
  return `${figureTitle(name)} ${from}${figureValue(name, after[name])}`;
}
