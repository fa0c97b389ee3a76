/** A new version beside the one before it: figures of both on the same rows, and which of them is served. */
import { fetchJson } from "../api.js";
import * as format from "../format.js";
import { t } from "../i18n.js";
import { live, refresh } from "../live.js";
import { useStore } from "../store.js";
import { html, useState } from "../ui.js";
import { ErrorNote, Reasons } from "./basics.js";
import { better, figureTitle, figureValue } from "./figures.js";

const SETS = ["held_out", "corrected"];

/** @param {{comparison: any, name: string, version: number}} props  ``version``: the new one */
export function Comparison({ comparison, name, version }) {
  const before = comparison.with.version;
  const sets = SETS.filter((one) => comparison[one]);
  const worse = sets.filter((one) => better(comparison[one].judged_by, comparison[one].current, comparison[one].new) === "worse");
  return html`
    <section class="comparison" aria-label=${t("versions")}>
      <h3>${t("versions")}</h3>
      ${sets.length > 0 && html`
        <div class="scroll" tabindex="0" role="group" aria-label=${t("versions.figures")}>
          <table class="figures">
            <thead><tr><th scope="col">${t("versions.rows")}</th><th scope="col">${t("compare.version", { version: before })}</th><th scope="col">${t("compare.version", { version })}</th></tr></thead>
            <tbody>${sets.map((one) => html`<${SetRow} key=${one} set=${one} figures=${comparison[one]} />`)}</tbody>
          </table>
        </div>`}
      ${comparison.promoted
        ? html`<p class="hint">${t("versions.promoted", { before })}</p>`
        : html`
          <p class="hint">${worse.length ? t("versions.worse", { before, sets: worse.map((one) => t(`versions.${one}.short`)).join(", ") }) : t("versions.unasked", { before })}</p>
          ${!worse.length && comparison.reason && html`<${Reasons} reasons=${[comparison.reason]} />`}
          <${ServeIt} name=${name} version=${version} />`}
    </section>`;
}

/** @param {{set: string, figures: {rows: number, judged_by: string, current: number, new: number}}} props */
const SetRow = ({ set, figures }) => html`
  <tr>
    <th scope="row">${t(`versions.${set}`, { rows: format.number(figures.rows) })} <span class="small muted">${figureTitle(figures.judged_by)}</span></th>
    <td class="numbers">${figureValue(figures.judged_by, figures.current)}</td>
    <td class=${`numbers ${better(figures.judged_by, figures.current, figures.new)}`}>${figureValue(figures.judged_by, figures.new)}</td>
  </tr>`;

/** Serve the version after all, as long as another is. */
function ServeIt({ name, version }) {
  const { adapters } = useStore(live);
  const [busy, setBusy] = useState(false);
  const [error, setError] = useState(/** @type {any} */ (null));
  const now = adapters.find((one) => one.name === name);
  if (!now || now.version === version) return null;
  const serve = async () => {
    setBusy(true);
    setError(null);
    try {
      await fetchJson(`/adapters/${encodeURIComponent(name)}/rollback`, { json: { version } });
      await refresh();
    } catch (problem) { setError(problem); }
    setBusy(false);
  };
  return html`
    <div class="actions"><button type="button" class="quiet" disabled=${busy} onClick=${serve}>${t("versions.serve", { version })}</button></div>
    <${ErrorNote} error=${error} />`;
}
