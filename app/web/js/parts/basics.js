/** Small pieces that every view uses. */
import { t } from "../i18n.js";
import { reasonIn, wordsOf } from "../problem-words.js";
import { html, useEffect, useRef, useState } from "../ui.js";
import { Icon } from "./icons.js";

const FEW = 4; // reasons that are shown without a click

/** An error in words, with every reason. @param {{error: any, onRetry?: () => void}} props */
export function ErrorNote({ error, onRetry }) {
  if (!error) return null;
  const { lead, said, reasons } = wordsOf(error);
  return html`
    <div class="note bad" role="alert">
      <${Icon} name="warning" />
      <div>
        <p>${lead}</p>
        ${said && html`<p class="small" lang="en">${said}</p>`}
        <${Reasons} reasons=${reasons} />
        ${error.instance && html`<p class="small muted">${t("error.request", { id: error.instance })}</p>`}
        ${onRetry && html`<button type="button" class="quiet" onClick=${onRetry}>${t("again")}</button>`}
      </div>
    </div>`;
}

/** The first few reasons, the others folded; in the server's words. @param {{reasons: string[]}} props */
export function Reasons({ reasons }) {
  if (!reasons.length) return null;
  const item = (reason) => {
    const { words, lang } = reasonIn(reason);
    return html`<li lang=${lang}>${words}</li>`;
  };
  const shown = reasons.length > FEW + 1 ? FEW : reasons.length;
  return html`
    <ul>${reasons.slice(0, shown).map(item)}</ul>
    ${reasons.length > shown && html`<details><summary>${t("reasons.more", { count: reasons.length - shown })}</summary><ul>${reasons.slice(shown).map(item)}</ul></details>`}`;
}

/** What is to be done where nothing is yet. */
export const Empty = ({ title, children }) => html`
  <div class="empty"><p class="empty-title">${title}</p><p>${children}</p></div>`;

/** A share of a whole; without ``share`` it only says that something goes on. */
export const Progress = ({ label, share }) => html`
  <div class="progress-row">
    <span>${label}</span>
    <progress max="1" value=${share ?? undefined} aria-label=${label}></progress>
  </div>`;

/** @param {{children: any, kind?: string, title?: string}} props */
export const Badge = ({ children, kind = "", title }) => html`<span class=${`badge ${kind}`} title=${title}>${children}</span>`;

/** Puts ``text`` on the clipboard and says so. */
export function CopyButton({ text, label = t("copy"), small = false }) {
  const [done, setDone] = useState(false);
  useEffect(() => {
    const timer = done ? setTimeout(() => setDone(false), 1600) : 0;
    return () => clearTimeout(timer);
  }, [done]);
  const copy = async () => {
    try {
      await navigator.clipboard.writeText(text);
    } catch { // no clipboard on plain http: the old way
      const area = document.createElement("textarea");
      area.value = text;
      document.body.append(area);
      area.select();
      document.execCommand("copy");
      area.remove();
    }
    setDone(true);
  };
  return html`
    <button type="button" class=${small ? "quiet small" : "quiet"} onClick=${copy}>
      <${Icon} name=${done ? "check" : "copy"} /><span aria-live="polite">${done ? t("copied") : label}</span>
    </button>`;
}

/**
 * A modal dialog; Escape and the buttons close it. ``tone``: "danger" for what cannot be undone.
 * @param {{title: string, confirm: string, onConfirm: () => void, onClose: () => void, tone?: string, children?: any}} props
 */
export function Dialog({ title, confirm, onConfirm, onClose, tone = "", children }) {
  const element = useRef(/** @type {HTMLDialogElement | null} */ (null));
  useEffect(() => { element.current?.showModal(); }, []);
  const submit = (event) => { event.preventDefault(); onConfirm(); };
  return html`
    <dialog ref=${element} aria-labelledby="dialog-title" onCancel=${(event) => { event.preventDefault(); onClose(); }}>
      <form onSubmit=${submit}>
        <h2 id="dialog-title">${title}</h2>
        ${children}
        <div class="actions end">
          <button type="button" class="quiet" onClick=${onClose}>${t("cancel")}</button>
          <button type="submit" class=${`primary ${tone}`}>${confirm}</button>
        </div>
      </form>
    </dialog>`;
}

/** A label above a field. */
export const Field = ({ label, hint, children }) => html`
  <label class="field"><span class="label">${label}</span>${children}${hint && html`<span class="hint">${hint}</span>`}</label>`;

/**
 * One of a few.
 * @param {{legend: string, name: string, value: string, options: [string, string][], onChange: (value: string) => void}} props
 */
export const Choice = ({ legend, name, value, options, onChange }) => html`
  <fieldset class="choice">
    <legend class="label">${legend}</legend>
    <div class="segments">
      ${options.map(([key, words]) => html`
        <label key=${key}>
          <input type="radio" name=${name} value=${key} checked=${key === value} onChange=${() => onChange(key)} />
          <span>${words}</span>
        </label>`)}
    </div>
  </fieldset>`;
