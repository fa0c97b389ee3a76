/** Adapters: all that there are; add, choose, pin, go back, delete. */
import { call, fetchJson } from "../api.js";
import { t } from "../i18n.js";
import { live, refresh } from "../live.js";
import { AdapterCard } from "../parts/adapter-card.js";
import { Badge, Dialog, Empty, ErrorNote, Progress } from "../parts/basics.js";
import { RemovedAdapters } from "../parts/removed-adapters.js";
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
  restore: async (adapter, version) => { await call(`${path(adapter)}/rollback`, { json: { version } }); },
  delete: async (adapter) => { await call(path(adapter), { method: "DELETE" }); },
  download: async (adapter) => { save(await (await call(`${path(adapter)}/download`)).blob(), `${adapter.name}-${adapter.version}.zip`); },
};

export function Adapters() {
  const { adapters, removed, active, loaded, readiness } = useStore(live);
  const [busy, setBusy] = useState("");
  const [error, setError] = useState(/** @type {any} */ (null));
  const [said, setSaid] = useState("");
  const [gone, setGone] = useState(/** @type {any} */ (null)); // deleted a moment ago
  const [doomed, setDoomed] = useState(/** @type {any} */ (null));

  const run = async (what, work) => {
    setBusy(what);
    setError(null);
    setSaid("");
    setGone(null);
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
      if (what === "delete") setGone(adapter);
      return t(`did.${what}`, { name: adapter.name, version: typeof more === "number" ? more : "" });
    });
  };
  const unload = () => run("unload", async () => {
    const told = await fetchJson("/unload", { method: "POST" });
    return t(told.unchanged ? "unload.same" : "unload.changed", { print: told.fingerprint.slice(0, 16), freed: told.freed.length });
  });

  const undo = gone && removed.find((one) => one.name === gone.name);
  return html`
    <${UploadAdapter} taken=${adapters} />
    <section aria-label=${t("adapters.list")}>
      <div class="toolbar">
        <p>${t("adapters.default")} <${Badge} kind=${active ? "accent" : ""}>${active ?? t("choice.base")}<//>
          ${readiness?.resident != null && html`<span class="muted numbers"> · ${t("adapters.resident", { count: readiness.resident })}</span>`}</p>
        <button type="button" class="quiet" disabled=${busy !== ""} onClick=${unload}>${t("unload")}</button>
      </div>
      <div class="said" aria-live="polite">
        ${busy && html`<${Progress} label=${t(`doing.${busy}`)} />`}
        ${said && html`<p class="note good"><span>${said} ${undo && html`<button type="button" class="link" onClick=${() => act("restore", undo, undo.versions[undo.versions.length - 1])}>${t("removed.undo")}</button>`}</span></p>`}
      </div>
      <${ErrorNote} error=${error} />
      ${loaded && !adapters.length && html`<${Empty} title=${t("adapters.none")}>${t("adapters.none.how")}<//>`}
      <div class="cards">${adapters.map((adapter) => html`<${AdapterCard} key=${adapter.name} adapter=${adapter} busy=${busy !== ""} onAct=${act} />`)}</div>
      <${RemovedAdapters} removed=${removed} busy=${busy !== ""} onRestore=${(adapter, version) => act("restore", adapter, version)} />
    </section>
    ${doomed && html`
      <${Dialog} title=${t("delete.title", { name: doomed.name })} confirm=${t("adapter.delete")} tone="danger" onClose=${() => setDoomed(null)}
        onConfirm=${() => { const adapter = doomed; setDoomed(null); act("delete", adapter, true); }}>
        <p>${t("delete.what")}</p>
      <//>`}`;
}
