/** Deleted adapters whose files the server keeps, and the way back. */
import { t } from "../i18n.js";
import { html, useState } from "../ui.js";
import { Icon } from "./icons.js";

/** @param {{removed: {name: string, versions: number[]}[], busy: boolean, onRestore: (adapter: {name: string}, version: number) => void}} props */
export const RemovedAdapters = ({ removed, busy, onRestore }) =>
  (removed.length === 0 ? null : html`
    <details class="panel removed">
      <summary>${t("removed", { count: removed.length })}</summary>
      <p class="hint">${t("removed.what")}</p>
      <ul class="rows">${removed.map((adapter) => html`<${Row} key=${adapter.name} adapter=${adapter} busy=${busy} onRestore=${onRestore} />`)}</ul>
    </details>`);

function Row({ adapter, busy, onRestore }) {
  const versions = [...adapter.versions].reverse();
  const [version, setVersion] = useState(/** @type {number | null} */ (null));
  const chosen = versions.includes(version) ? version : versions[0];
  return html`
    <li>
      <span class="name">${adapter.name}</span>
      <span class="joined">
        <select aria-label=${t("removed.version", { name: adapter.name })} value=${chosen} onChange=${(event) => setVersion(Number(event.currentTarget.value))}>
          ${versions.map((one) => html`<option value=${one}>v${one}</option>`)}
        </select>
        <button type="button" class="quiet" disabled=${busy} aria-label=${t("removed.restore.named", { name: adapter.name })} onClick=${() => onRestore(adapter, chosen)}><${Icon} name="back" />${t("removed.restore")}</button>
      </span>
    </li>`;
}
