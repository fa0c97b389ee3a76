/** The fields of a question that most people leave alone, within what this server takes. */
import * as format from "../format.js";
import { t } from "../i18n.js";
import { live } from "../live.js";
import { useStore } from "../store.js";
import { html, useLayoutEffect, useRef } from "../ui.js";

export const DEFAULTS = { max_new_tokens: "256", temperature: "0", seed: "", system: "" };
const WHOLE = /^\d+$/;
const DECIMAL = /^\d*[.,]?\d+$/;
const MOST_HOT = 5;
const MOST_SEED = 2n ** 63n - 1n;
const MOST_SYSTEM = 200_000; // characters

/** What differs from the service's own defaults, for the form. @param {typeof DEFAULTS} options */
export const sent = (options) =>
  Object.fromEntries(Object.entries(options).map(([name, value]) => [name, tidy(name, value)]).filter(([name, value]) => value !== "" && value !== DEFAULTS[name]));

/** Blanks at the ends mean nothing, and a comma may part decimals. @param {string} name @param {string} value */
const tidy = (name, value) => (name === "temperature" ? value.trim().replace(",", ".") : value.trim());

/** @param {any} readiness */
const mostTokens = (readiness) => readiness?.max_context ?? null;

/**
 * What this server would refuse, in words, by the name of the option.
 * @param {typeof DEFAULTS} options
 * @returns {Record<string, string>}
 */
export function faultsOf(options) {
  const most = mostTokens(live.get().readiness);
  /** @type {Record<string, string>} */
  const faults = {};
  const { max_new_tokens: tokens, temperature, seed, system } = /** @type {any} */ (Object.fromEntries(Object.entries(options).map(([name, value]) => [name, tidy(name, value)])));
  if (tokens && (!WHOLE.test(tokens) || Number(tokens) < 1)) faults.max_new_tokens = t("options.bad.whole", { least: 1 });
  else if (tokens && most && Number(tokens) > most) faults.max_new_tokens = t("options.bad.tokens", { most: format.number(most) });
  if (temperature && (!DECIMAL.test(temperature) || Number(temperature) > MOST_HOT)) faults.temperature = t("options.bad.temperature", { most: MOST_HOT });
  if (seed && (!WHOLE.test(seed) || BigInt(seed) > MOST_SEED)) faults.seed = t("options.bad.whole", { least: 0 });
  if (system.length > MOST_SYSTEM) faults.system = t("options.bad.system", { most: format.number(MOST_SYSTEM) });
  return faults;
}

/**
 * ``told``: counts the questions that were not sent for a fault here; each opens the options and goes to the first.
 * @param {{options: typeof DEFAULTS, onChange: (options: typeof DEFAULTS) => void, told: number, name: string}} props
 */
export function AskOptions({ options, onChange, told, name }) {
  const { readiness } = useStore(live);
  const details = useRef(/** @type {HTMLDetailsElement | null} */ (null));
  const faults = faultsOf(options);
  const first = Object.keys(faults)[0];
  const place = (/** @type {string} */ option) => `${name}-${option}`;
  useLayoutEffect(() => {
    if (!told || !details.current || !first) return;
    details.current.open = true;
    document.getElementById(place(first))?.focus();
  }, [told]);
  const most = mostTokens(readiness);
  const fields = [
    ["max_new_tokens", t("options.tokens"), most ? t("options.tokens.most", { most: format.number(most) }) : "", "numeric"],
    ["temperature", t("options.temperature"), t("options.greedy", { most: MOST_HOT }), "decimal"],
    ["seed", t("options.seed"), t("options.random"), "numeric"],
    ["system", t("options.system"), "", "text"],
  ];
  const changed = Object.keys(sent(options)).length;
  return html`
    <details class="options" ref=${details}>
      <summary>${t("options")}${first ? html` <span class="badge bad">${t("options.bad")}</span>` : changed > 0 && html` <span class="badge accent">${t("options.changed", { count: changed })}</span>`}</summary>
      <div class="fields">${fields.map(([option, label, hint, mode]) => html`
        <div class="field" key=${option}>
          <label class="label" for=${place(option)}>${label}</label>
          <input id=${place(option)} type="text" inputmode=${mode} autocomplete="off" value=${options[option]} aria-invalid=${faults[option] ? "true" : undefined}
            aria-describedby=${`${place(option)}-hint`} onInput=${(event) => onChange({ ...options, [option]: event.currentTarget.value })} />
          <span class="hint" id=${`${place(option)}-hint`}>${faults[option] ? html`<span class="fault">${faults[option]}</span>` : hint}</span>
        </div>`)}
      </div>
    </details>`;
}
