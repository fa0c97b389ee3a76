/** What surrounds the views: navigation, the state of the service, language, theme, and the question for a key. */
import { answerKey, keyNow, question } from "../key.js";
import { NAMES, language, speak, t, tag } from "../i18n.js";
import { live, refresh } from "../live.js";
import { VIEWS } from "../route.js";
import { useStore } from "../store.js";
import { theme, toggleTheme } from "../theme.js";
import { html, useState } from "../ui.js";
import { Dialog, ErrorNote, Field } from "./basics.js";
import { Icon } from "./icons.js";

/** @param {{view: string}} props */
export function Navigation({ view }) {
  const { readiness } = useStore(live);
  const shown = VIEWS.filter((name) => name !== "data" || name === view || readiness?.feedback);
  return html`
    <nav aria-label=${t("nav")}>
      <ul>${shown.map((name) => html`
        <li key=${name}><a href=${`#/${name}`} aria-current=${name === view ? "page" : undefined}><${Icon} name=${name} /><span>${t(`view.${name}`)}</span></a></li>`)}
      </ul>
    </nav>`;
}

export function Tools() {
  const now = useStore(theme);
  const spoken = useStore(language);
  return html`
    <div class="tools">
      <button type="button" class="round quiet" onClick=${toggleTheme} aria-label=${t(now === "dark" ? "theme.light" : "theme.dark")}>
        <${Icon} name=${now === "dark" ? "sun" : "moon"} />
      </button>
      <select aria-label=${t("language")} value=${spoken} onChange=${(event) => speak(event.currentTarget.value)}>
        ${Object.entries(NAMES).map(([one, name]) => html`<option key=${one} value=${one} lang=${tag(one)}>${name}</option>`)}
      </select>
    </div>`;
}

/** Which model, which adapter by default, and the way back to the base. */
export function Status() {
  const { readiness, active, error, loaded } = useStore(live);
  const state = readiness ? "ready" : loaded ? "down" : "wait";
  return html`
    <div class="status">
      <p><span class=${`lamp ${state}`} aria-hidden="true"></span>${readiness ? readiness.model.split("/").pop() : t(error?.code === "not_ready" || !loaded ? "status.loading" : "status.down")}</p>
      ${readiness && html`<p class="small muted">${t("status.default", { name: active ?? t("choice.base") })}</p>`}
    </div>`;
}

/** Why nothing can be asked, above every view. */
export function ServiceError() {
  const { error } = useStore(live);
  if (!error) return null;
  const retry = () => { live.set({ ...live.get(), error: null }); refresh(); };
  return html`<${ErrorNote} error=${error} onRetry=${retry} />`;
}

export function KeyQuestion() {
  const asked = useStore(question);
  const [key, setKey] = useState("");
  if (!asked) return null;
  const close = () => { setKey(""); answerKey(null); };
  const enter = () => { setKey(""); answerKey(key.trim()); refresh(); };
  return html`
    <${Dialog} title=${t("key.title")} confirm=${t("key.enter")} onConfirm=${() => key.trim() && enter()} onClose=${close}>
      <p>${t(keyNow() ? "key.again" : "key.first")}</p>
      ${keyNow() && html`<p class="hint">${asked.reason}</p>`}
      <${Field} label=${t("key.label")} hint=${t("key.kept")}>
        <input type="password" autocomplete="off" autofocus required value=${key} onInput=${(event) => setKey(event.currentTarget.value)} />
      <//>
    <//>`;
}
