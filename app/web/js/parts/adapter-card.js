/** One adapter: what it is, where its weights lie, how it is used, and what can be done with it. */
import * as format from "../format.js";
import { t } from "../i18n.js";
import { html, useState } from "../ui.js";
import { Badge, Reasons } from "./basics.js";
import { Figures, headline } from "./figures.js";
import { Icon } from "./icons.js";
import { Report } from "./report.js";

/** @param {{adapter: any, busy: boolean, onAct: (what: string, adapter: any, more?: any) => void}} props */
export function AdapterCard({ adapter, busy, onAct }) {
  if (adapter.status === "broken") return html`<${Broken} adapter=${adapter} busy=${busy} onAct=${onAct} />`;
  const { name, manifest, report, usage } = adapter;
  const isHead = report.serving === "classify";
  const line = headline(manifest.metrics);
  return html`
    <article class=${adapter.active ? "panel adapter active" : "panel adapter"} aria-labelledby=${`adapter-${name}`}>
      <header>
        <h2 id=${`adapter-${name}`}>${name}</h2>
        <${Badge}>v${adapter.version}<//>
        <${Badge} kind=${`at-${adapter.residency}`} title=${t(`residency.${adapter.residency}.what`)}>${t(`residency.${adapter.residency}`)}<//>
        ${adapter.active && html`<${Badge} kind="accent">${t("adapter.active")}<//>`}
        ${adapter.pinned && html`<${Badge} kind="accent">${t("adapter.pinned")}<//>`}
      </header>
      <p class="task">${manifest.task ?? t("adapter.no-task")}</p>
      <dl class="facts small-facts">
        <div><dt>${t("adapter.method")}</dt><dd>${t(`method.${manifest.method}`)}${report.rank > 0 && html` <span class="numbers">r ${report.rank}</span>`}</dd></div>
        <div><dt>${t("adapter.size")}</dt><dd class="numbers">${format.bytes(report.bytes)}</dd></div>
        <div><dt>${t("adapter.requests")}</dt><dd class="numbers">${format.number(usage.requests)}</dd></div>
        <div><dt>${t("adapter.tokens")}</dt><dd class="numbers">${format.number(usage.completion_tokens)}</dd></div>
        <div><dt>${t("adapter.audio")}</dt><dd class="numbers">${format.duration(usage.audio_seconds)}</dd></div>
      </dl>
      ${line && html`<p class="headline numbers">${line}</p>`}
      <div class="actions">
        <a class="button primary" href=${`#/try?adapter=${name}`} aria-label=${t("try.named", { name })}>${t("try.it")}</a>
        ${!isHead && html`
          <button type="button" class="quiet" disabled=${busy} onClick=${() => onAct(adapter.active ? "deselect" : "select", adapter)}>${t(adapter.active ? "adapter.deselect" : "adapter.select")}</button>
          <button type="button" class="quiet" disabled=${busy} aria-pressed=${adapter.pinned ? "true" : "false"} onClick=${() => onAct("pin", adapter)}><${Icon} name="pin" />${t(adapter.pinned ? "adapter.unpin" : "adapter.pin")}</button>`}
        <button type="button" class="quiet" disabled=${busy} onClick=${() => onAct("download", adapter)}><${Icon} name="download" />${t("adapter.download")}</button>
        <${Rollback} adapter=${adapter} busy=${busy} onAct=${onAct} />
        <button type="button" class="quiet danger" disabled=${busy} onClick=${() => onAct("delete", adapter)}><${Icon} name="trash" />${t("adapter.delete")}</button>
      </div>
      <details>
        <summary>${t("adapter.more")}</summary>
        <${Figures} metrics=${manifest.metrics} />
        <h3>${t("report")}</h3>
        <${Report} report=${report} />
        <dl class="pairs">
          <div><dt>${t("adapter.created")}</dt><dd>${format.date(manifest.created)}</dd></div>
          ${manifest.prompt && html`<div><dt>${t("adapter.prompt")}</dt><dd>${manifest.prompt}</dd></div>`}
          <div><dt>${t("adapter.base")}</dt><dd>${manifest.base.name}</dd></div>
        </dl>
      </details>
    </article>`;
}

/** Older versions, where there are any. */
function Rollback({ adapter, busy, onAct }) {
  const others = adapter.versions.filter((version) => version !== adapter.version).reverse();
  const [version, setVersion] = useState(/** @type {number | null} */ (null));
  if (!others.length) return null;
  const chosen = others.includes(version) ? version : others[0];
  return html`
    <span class="joined">
      <select aria-label=${t("adapter.version", { name: adapter.name })} value=${chosen} onChange=${(event) => setVersion(Number(event.currentTarget.value))}>
        ${others.map((one) => html`<option value=${one}>v${one}</option>`)}
      </select>
      <button type="button" class="quiet" disabled=${busy} onClick=${() => onAct("rollback", adapter, chosen)}><${Icon} name="back" />${t("adapter.rollback")}</button>
    </span>`;
}

const Broken = ({ adapter, busy, onAct }) => html`
  <article class="panel adapter broken" aria-labelledby=${`adapter-${adapter.name}`}>
    <header><h2 id=${`adapter-${adapter.name}`}>${adapter.name}</h2><${Badge} kind="bad">${t("adapter.broken")}<//></header>
    <p>${t("adapter.broken.what")}</p>
    <${Reasons} reasons=${adapter.problems} />
    <div class="actions">
      <${Rollback} adapter=${adapter} busy=${busy} onAct=${onAct} />
      <button type="button" class="quiet danger" disabled=${busy} onClick=${() => onAct("delete", adapter)}><${Icon} name="trash" />${t("adapter.delete")}</button>
    </div>
  </article>`;
