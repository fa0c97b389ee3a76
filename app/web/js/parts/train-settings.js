/** How to train: method, preset, and the few numbers that matter. */
import { t } from "../i18n.js";
import { html } from "../ui.js";
import { Choice, Field } from "./basics.js";

export const SETTINGS = { name: "", method: "lora", preset: "seed", epochs: "", learning_rate: "", rank: "", batch_size: "", seed: "", weights: "", task: "", prompt: "" };
const WEIGHTS = ["bfloat16", "float8", "int8", "int4"];
const PRESETS = ["seed", "balanced", "strong"];
const USUAL = { lora: { epochs: "3", batch_size: "8" }, projector: { epochs: "3", batch_size: "8" }, head: { epochs: "300", batch_size: "256" } };

/** As the service wants them. @param {typeof SETTINGS} settings */
export function wanted(settings) {
  const lora = settings.method === "lora";
  return { ...settings, preset: lora ? settings.preset : "", rank: lora ? settings.rank : "" };
}

/** @param {{settings: typeof SETTINGS, replaced?: {name: string, version?: number}, onChange: (settings: typeof SETTINGS) => void}} props  ``replaced``: the adapter that has the name */
export function TrainSettings({ settings, replaced, onChange }) {
  const set = (name) => (event) => onChange({ ...settings, [name]: event.currentTarget.value });
  const number = (name, more) => html`
    <${Field} label=${t(`train.${name}`)}>
      <input type="number" value=${settings[name]} placeholder=${USUAL[settings.method][name] ?? t("train.usual")} onInput=${set(name)} ...${more} />
    <//>`;
  return html`
    <${Field} label=${t("train.name")} hint=${replaced ? t(replaced.version ? "upload.replaces" : "upload.replaces-broken", { name: replaced.name, version: replaced.version ?? "" }) : t("train.name.hint")}>
      <input required maxlength="64" pattern="[a-z0-9][a-z0-9._\\-]*" title=${t("upload.rule")} value=${settings.name} onInput=${set("name")} />
    <//>
    <div>
      <${Choice} legend=${t("train.method")} name="method" value=${settings.method} onChange=${(method) => onChange({ ...settings, method })}
        options=${["lora", "head", "projector"].map((one) => [one, t(`method.${one}`)])} />
      <p class="hint">${t(`train.method.${settings.method}`)}</p>
    </div>
    ${settings.method === "lora" && html`
      <div>
        <${Choice} legend=${t("train.preset")} name="preset" value=${settings.preset} onChange=${(preset) => onChange({ ...settings, preset })}
          options=${PRESETS.map((one) => [one, t(`train.preset.${one}`)])} />
        <p class="hint">${t(`train.preset.${settings.preset}.what`)}</p>
      </div>`}
    <details class="options">
      <summary>${t("options")}</summary>
      <div class="fields">
        ${number("epochs", { min: 0.1, max: 1000, step: "any" })}
        ${number("learning_rate", { min: 0, max: 1, step: "any" })}
        ${settings.method === "lora" && number("rank", { min: 1, max: 1024, step: 1 })}
        ${number("batch_size", { min: 1, max: 4096, step: 1 })}
        ${number("seed", { min: 0, step: 1 })}
        <${Field} label=${t("train.weights")} hint=${t("train.weights.what")}>
          <select value=${settings.weights} onChange=${set("weights")}>
            <option value="">${t("train.weights.served")}</option>${WEIGHTS.map((one) => html`<option value=${one}>${one}</option>`)}
          </select>
        <//>
      </div>
      <div class="fields one">
        <${Field} label=${t("train.task")}><input type="text" maxlength="2000" value=${settings.task} onInput=${set("task")} /><//>
        ${settings.method !== "head" && html`<${Field} label=${t("train.prompt")}><input type="text" maxlength="2000" placeholder=${t("prompt.usual")} value=${settings.prompt} onInput=${set("prompt")} /><//>`}
      </div>
    </details>`;
}
