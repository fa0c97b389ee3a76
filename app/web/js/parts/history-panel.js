/** Questions that were asked before; a click brings one back with its recordings and options. */
import { clear, history } from "../history.js";
import { namesOf } from "../clips.js";
import * as format from "../format.js";
import { t } from "../i18n.js";
import { useStore } from "../store.js";
import { html, useState } from "../ui.js";
import { Dialog } from "./basics.js";

const WORDLESS = { running: "waiting", done: "empty", stopped: "stopped", failed: "failed" };

/** @param {{shown: string | null, onPick: (one: import("./answer-panel.js").Asked) => void}} props */
export function HistoryPanel({ shown, onPick }) {
  const { asked, kept } = useStore(history);
  const [clearing, setClearing] = useState(false);
  if (!asked.length) return null;
  return html`
    <section class="panel history" aria-label=${t("history")}>
      <header class="panel-head"><h2>${t("history")}</h2><button type="button" class="quiet small" onClick=${() => setClearing(true)}>${t("history.clear")}</button></header>
      <ol>${asked.map((one) => html`
        <li key=${one.id}>
          <button type="button" class="row" aria-current=${one.id === shown ? "true" : undefined} onClick=${() => onPick(one)}>
            <span class="numbers muted">${when(one.time)}</span>
            <span class="name">${one.question.adapter.replaceAll(",", " + ")}</span>
            <span class="cut">${one.text || t(`answer.${WORDLESS[one.state]}`)}</span>
            <span class="cut muted">${[...namesOf(one.question.clips), one.question.prompt].filter(Boolean).join(" · ")}</span>
          </button>
        </li>`)}</ol>
      <p class="hint">${t(kept ? "history.kept" : "history.not-kept")}</p>
      ${clearing && html`
        <${Dialog} title=${t("history.clear.title")} confirm=${t("history.clear")} tone="danger" onClose=${() => setClearing(false)} onConfirm=${() => { setClearing(false); clear(); }}>
          <p>${t("history.clear.what")}</p>
        <//>`}
    </section>`;
}

/** The time; of another day the date too. @param {number} time */
const when = (time) => (new Date(time).toDateString() === new Date().toDateString() ? format.clock(time) : format.date(time));
