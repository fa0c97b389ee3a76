/** Which adapter answers: none, one, or a mix with a slider for each part. */
import { t } from "../i18n.js";
import { heads, speakers } from "../live.js";
import * as format from "../format.js";
import { html } from "../ui.js";
import { Choice } from "./basics.js";

/**
 * @typedef {object} Chosen
 * @property {"base" | "one" | "mix"} kind
 * @property {string} name  of the one
 * @property {Record<string, number>} parts  weights of the mix
 */

/** @type {Chosen} */
export const BASE = { kind: "base", name: "", parts: {} };

/** As requests write it: `base`, a name, `a:0.7,b:0.3`. @param {Chosen} chosen */
export function written(chosen) {
  if (chosen.kind === "base") return "base";
  if (chosen.kind === "one") return chosen.name;
  return Object.entries(chosen.parts).map(([name, weight]) => `${name}:${weight}`).join(",");
}

/** @param {{chosen: Chosen, adapters: any[], onChange: (chosen: Chosen) => void}} props */
export function AdapterChoice({ chosen, adapters, onChange }) {
  const able = speakers(adapters);
  const classifying = heads(adapters);
  const options = [["base", t("choice.base")], ["one", t("choice.one")], ["mix", t("choice.mix")]];
  const turn = (kind) => {
    const name = chosen.name || able[0]?.name || classifying[0]?.name || "";
    const parts = Object.keys(chosen.parts).length ? chosen.parts : Object.fromEntries(able.slice(0, 2).map((one) => [one.name, 0.5]));
    onChange({ ...chosen, kind, name, parts });
  };
  const none = able.length + classifying.length === 0;
  return html`
    <div class="adapter-choice">
      <${Choice} legend=${t("choice.legend")} name="adapter-kind" value=${chosen.kind} options=${options} onChange=${turn} />
      ${chosen.kind !== "base" && none && html`<p class="hint">${t("choice.none")} <a href="#/adapters">${t("choice.add")}</a></p>`}
      ${chosen.kind === "one" && !none && html`
        <select aria-label=${t("choice.one")} value=${chosen.name} onChange=${(event) => onChange({ ...chosen, name: event.currentTarget.value })}>
          ${able.map((one) => html`<option value=${one.name}>${one.name}</option>`)}
          ${classifying.length > 0 && html`<optgroup label=${t("choice.heads")}>${classifying.map((one) => html`<option value=${one.name}>${one.name}</option>`)}</optgroup>`}
        </select>
        <p class="hint">${adapters.find((one) => one.name === chosen.name)?.manifest?.task ?? ""}</p>`}
      ${chosen.kind === "mix" && html`<${Mix} parts=${chosen.parts} able=${able} onChange=${(parts) => onChange({ ...chosen, parts })} />`}
    </div>`;
}

/** @param {{parts: Record<string, number>, able: any[], onChange: (parts: Record<string, number>) => void}} props */
export function Mix({ parts, able, onChange }) {
  const without = (name) => Object.fromEntries(Object.entries(parts).filter(([other]) => other !== name));
  return html`
    <ul class="mix" aria-label=${t("choice.mix")}>
      ${able.map(({ name }) => html`
        <li key=${name}>
          <label class="check">
            <input type="checkbox" checked=${name in parts}
              onChange=${(event) => onChange(event.currentTarget.checked ? { ...parts, [name]: 0.5 } : without(name))} />
            <span>${name}</span>
          </label>
          <input type="range" min="0" max="1.5" step="0.05" value=${parts[name] ?? 0} disabled=${!(name in parts)}
            aria-label=${t("choice.weight", { name })} onInput=${(event) => onChange({ ...parts, [name]: Number(event.currentTarget.value) })} />
          <output class="numbers">${format.number(parts[name] ?? 0, 2)}</output>
        </li>`)}
    </ul>`;
}
