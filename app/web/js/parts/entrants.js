/** Who answers in a comparison: the base model, adapters, and mixes that the visitor adds. */
import * as format from "../format.js";
import { t } from "../i18n.js";
import { html, useState } from "../ui.js";
import { Mix } from "./adapter-choice.js";
import { Icon } from "./icons.js";

/**
 * An entrant is written as `/compare` takes it: `base`, a name, `name@2` for a version, `a:0.7+b:0.3` for a mix.
 * @param {string} entrant
 */
export function titleOf(entrant) {
  if (entrant === "base") return t("choice.base");
  return entrant.split("+").map((part) => {
    const [name, weight] = part.split(":");
    const [plain, version] = name.split("@");
    return [plain, version && t("compare.version", { version }), weight && format.number(Number(weight), 2)].filter(Boolean).join(" ");
  }).join(" + ");
}

/** Names of adapters in an entrant. @param {string} entrant */
export const adaptersIn = (entrant) => (entrant === "base" ? [] : entrant.split("+").map((part) => part.split(/[:@]/)[0]));

/**
 * ``all``: entrants to choose from; ``added``: those of them that can be removed.
 * @param {{all: string[], picked: Set<string>, added: string[], adapters: any[], onToggle: (entrant: string) => void, onAdd: (entrant: string) => void, onRemove: (entrant: string) => void}} props
 */
export function Entrants({ all, picked, added, adapters, onToggle, onAdd, onRemove }) {
  return html`
    <fieldset class="picks">
      <legend class="label">${t("compare.with")}</legend>
      ${all.map((entrant) => html`
        <span key=${entrant} class="chip">
          <label class="check"><input type="checkbox" checked=${picked.has(entrant)} onChange=${() => onToggle(entrant)} /><span>${titleOf(entrant)}</span></label>
          ${added.includes(entrant) && html`<button type="button" class="bare" aria-label=${t("remove", { name: titleOf(entrant) })} onClick=${() => onRemove(entrant)}><${Icon} name="close" /></button>`}
        </span>`)}
      ${adapters.length > 0 && html`<${Adding} adapters=${adapters} onAdd=${onAdd} />`}
    </fieldset>`;
}

/** A mix, or a version that is not the current one. */
function Adding({ adapters, onAdd }) {
  const [parts, setParts] = useState(/** @type {Record<string, number>} */ ({}));
  const mix = Object.entries(parts).map(([name, weight]) => `${name}:${weight}`).join("+");
  const older = adapters.flatMap(({ name, version, versions }) => versions.filter((one) => one !== version).map((one) => `${name}@${one}`));
  const [version, setVersion] = useState("");
  const chosen = older.includes(version) ? version : older[0] ?? "";
  return html`
    <details class="adding">
      <summary>${t("compare.add")}</summary>
      <${Mix} parts=${parts} able=${adapters} onChange=${setParts} />
      <div class="actions"><button type="button" class="quiet" disabled=${!mix} onClick=${() => { onAdd(mix); setParts({}); }}>${t("compare.add.mix")}</button></div>
      ${older.length > 0 && html`
        <div class="line">
          <label class="field"><span class="label">${t("compare.older")}</span>
            <select value=${chosen} onChange=${(event) => setVersion(event.currentTarget.value)}>${older.map((one) => html`<option value=${one}>${titleOf(one)}</option>`)}</select></label>
          <button type="button" class="quiet" onClick=${() => onAdd(chosen)}>${t("compare.add.version")}</button>
        </div>`}
    </details>`;
}
