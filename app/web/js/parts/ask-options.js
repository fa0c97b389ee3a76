/** The fields of a question that most people leave alone. */
import { t } from "../i18n.js";
import { html } from "../ui.js";
import { Field } from "./basics.js";

export const DEFAULTS = { max_new_tokens: "256", temperature: "0", seed: "", system: "" };

/** What differs from the service's own defaults, for the form. @param {typeof DEFAULTS} options */
export const sent = (options) =>
  Object.fromEntries(Object.entries(options).filter(([name, value]) => value !== "" && value !== DEFAULTS[name]));

/** @param {{options: typeof DEFAULTS, onChange: (options: typeof DEFAULTS) => void}} props */
export function AskOptions({ options, onChange }) {
  const set = (name) => (event) => onChange({ ...options, [name]: event.currentTarget.value });
  return html`
    <details class="options">
      <summary>${t("options")}</summary>
      <div class="fields">
        <${Field} label=${t("options.tokens")}><input type="number" min="1" max="8192" value=${options.max_new_tokens} onInput=${set("max_new_tokens")} /><//>
        <${Field} label=${t("options.temperature")} hint=${t("options.greedy")}><input type="number" min="0" max="5" step="0.1" value=${options.temperature} onInput=${set("temperature")} /><//>
        <${Field} label=${t("options.seed")} hint=${t("options.random")}><input type="number" min="0" value=${options.seed} onInput=${set("seed")} /><//>
        <${Field} label=${t("options.system")}><input type="text" value=${options.system} onInput=${set("system")} /><//>
      </div>
    </details>`;
}
