/** What became of a version that was published here: it is served, another one is, or it was deleted since. */
import { t } from "../i18n.js";
import { live, refresh } from "../live.js";
import { useStore } from "../store.js";
import { html, useEffect, useState } from "../ui.js";

/** @param {{name: string, version: number, held?: boolean, children?: any}} props  ``held``: kept without being served, for it was worse */
export function ServedNote({ name, version, held = false, children }) {
  const { adapters } = useStore(live);
  const [asked, setAsked] = useState(""); // the list may be older than the version
  useEffect(() => { refresh().then(() => setAsked(`${name}@${version}`)); }, [name, version]);
  const now = adapters.find((one) => one.name === name);
  if (asked === `${name}@${version}` && now?.version !== version) {
    return html`<p class="note plain" role="status"><span>${now?.version ? t(held ? "served.held" : "served.other", { name, version, now: now.version }) : t("served.gone", { name, version })} <a href="#/adapters">${t("served.where")}</a></span></p>`;
  }
  return html`
    <div class="note good" role="status">
      <p><strong>${t("served", { name, version })}</strong></p>
      <p><a class="button primary" href=${`#/try?adapter=${name}`}>${t("job.try")}</a></p>
      ${children}
    </div>`;
}
