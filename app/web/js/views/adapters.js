/** Adapters: all that there are; add, choose, pin, go back, delete. */
import { call, fetchJson } from "../api.js";
import { t } from "../i18n.js";
import { live, refresh } from "../live.js";
import { AdapterCard } from "../parts/adapter-card.js";
import { Badge, Dialog, Empty, ErrorNote, Progress } from "../parts/basics.js";
import { save } from "../parts/save.js";
import { UploadAdapter } from "../parts/upload-adapter.js";
import { useStore } from "../store.js";
import { html, useState } from "../ui.js";

const path = (/** @type {any} */ { name }) => `/adapters/${encodeURIComponent(name)}`;

/** What each action asks of the service; what it tells is said above the list. */
const ACTIONS = {
  select: async (adapter) => { await call(`${path(adapter)}/select`, { method: "POST" }); },
  deselect: async () => { await call("/adapters/base/select", { method: "POST" }); },
  pin: async (adapter) => { await call(`${path(adapter)}/pin`, { json: { pinned: !adapter.pinned } }); },
  rollback: async (adapter, version) => { await call(`${path(adapter)}/rollback`, { json: { version } }); },
  delete: async (adapter) => { await call(path(adapter), { method: "DELETE" }); },
  download: async (adapter) => { save(await (await call(`${path(adapter)}/download`)).blob(), `${adapter.name}-${adapter.version}.zip`); },
};

export function Adapters() {
  const { adapters, active, loaded, readiness } = useStore(live);
  const [busy, setBusy] = useState("");
  const [error, setError] = useState(/** @type {any} */ (null));
  const [said, setSaid] = useState("");
  const [doomed, setDoomed] = useState(/** @type {any} */ (null));

  const run = async (what, work) => {
    setBusy(what);
    setError(null);
    setSaid("");
    try {
      setSaid((await work()) ?? "");
      await refresh();
    } catch (problem) {
      setError(problem);
    }
    setBusy("");
  };
  const act = (what, adapter, more) => {
    if (what === "delete" && !more) { setDoomed(adapter); return; }
    run(what, async () => {
      await ACTIONS[what](adapter, more);
      return t(`did.${what}`, { name: adapter.name, version: typeof more === "number" ? more : "" });
    });
  };
  const unload = () => run("unload", async () => {
    const told = await fetchJson("/unload", { method: "POST" });
    return t(told.unchanged ? "unload.same" : "unload.changed", { print: told.fingerprint.slice(0, 16), freed: told.freed.length });
  });

  return html`
    <${UploadAdapter} taken=${adapters.filter((one) => one.status === "ready").map((one) => one.name)} />
    <section aria-label=${t("adapters.list")}>
      <div class="toolbar">
        <p>${t("adapters.default")} <${Badge} kind=${active ? "accent" : ""}>${active ?? t("choice.base")}<//>
          ${readiness?.resident != null && html`<span class="muted numbers"> · ${t("adapters.resident", { count: readiness.resident })}</span>`}</p>
        <button type="button" class="quiet" disabled=${busy !== ""} onClick=${unload}>${t("unload")}</button>
      </div>
      <div class="said" aria-live="polite">
        ${busy && html`<${Progress} label=${t(`doing.${busy}`)} />`}
        ${said && html`<p class="note good">${said}</p>`}
      </div>
      <${ErrorNote} error=${error} />
      ${loaded && !adapters.length && html`<${Empty} title=${t("adapters.none")}>${t("adapters.none.how")}<//>`}
      <div class="cards">${adapters.map((adapter) => html`<${AdapterCard} key=${adapter.name} adapter=${adapter} busy=${busy !== ""} onAct=${act} />`)}</div>
    </section>
    ${doomed && html`
      <${Dialog} title=${t("delete.title", { name: doomed.name })} confirm=${t("adapter.delete")} tone="danger" onClose=${() => setDoomed(null)}
        onConfirm=${() => { const adapter = doomed; setDoomed(null); act("delete", adapter, true); }}>
        <p>${t("delete.what")}</p>
      <//>`}`;
}
