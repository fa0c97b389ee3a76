/** A verdict on an answer: right, wrong, or what it should have been. Shown where the service keeps such verdicts. */
import { judge, kindOf } from "../feedback.js";
import { t } from "../i18n.js";
import { live } from "../live.js";
import { useStore } from "../store.js";
import { html, useEffect, useId, useRef, useState } from "../ui.js";
import { Badge, Choice, ErrorNote, Field } from "./basics.js";

const BADGES = { right: "good", wrong: "bad", corrected: "accent", draft: "warn" };

/** @param {{row: any}} props */
export const VerdictBadge = ({ row }) => html`<${Badge} kind=${BADGES[kindOf(row)]}>${t(`verdict.is.${kindOf(row)}`)}<//>`;

/**
 * ``given``: the row of an earlier verdict on this answer; ``question``: for an answer that the service remembers no more.
 * @param {{answer: any, question?: import("../ask.js").Question, given?: any, onGiven?: (row: any) => void}} props
 */
export function Feedback({ answer, question, given, onGiven }) {
  const { readiness } = useStore(live);
  const [row, setRow] = useState(given ?? null);
  const [changing, setChanging] = useState(false);
  const [sent, setSent] = useState(false);
  const button = useRef(/** @type {HTMLButtonElement | null} */ (null));
  useEffect(() => { if (sent) button.current?.focus(); }, [row]);
  if (!readiness?.feedback || !answer.id) return null;
  const send = async (/** @type {any} */ verdict) => {
    const next = await judge(answer, verdict, question);
    setSent(true);
    setChanging(false);
    setRow(next);
    onGiven?.(next);
  };
  if (row && !changing) {
    return html`
      <div class="feedback" role="group" aria-label=${t("feedback")}>
        <p class="line" role="status"><${VerdictBadge} row=${row} /><span class="small">${t(row.recordings.some((one) => one.kept) ? "feedback.kept.all" : "feedback.kept.text")}</span></p>
        <div class="actions"><button type="button" class="quiet small" ref=${button} onClick=${() => setChanging(true)}>${t("feedback.change")}</button>
          <a class="small" href="#/data">${t("feedback.rows")}</a></div>
      </div>`;
  }
  return html`
    <div class="feedback" role="group" aria-label=${t("feedback")}>
      <${VerdictForm} answer=${answer.text} row=${row} asksConsent=${answer.audio.length > 0} onSend=${send} onCancel=${row ? () => setChanging(false) : undefined} />
    </div>`;
}

/**
 * ``row``: what is to be changed. ``onSend`` throws what the service refuses.
 * @param {{answer: string, row?: any, asksConsent?: boolean, onSend: (verdict: {kind: import("../feedback.js").Kind, text: string, consent: boolean}) => Promise<void>, onCancel?: () => void}} props
 */
export function VerdictForm({ answer, row, asksConsent = false, onSend, onCancel }) {
  const [kind, setKind] = useState(row && row.verdict !== "draft" ? kindOf(row) : "");
  const [text, setText] = useState(row?.corrected || answer);
  const [consent, setConsent] = useState(Boolean(row?.consent));
  const [busy, setBusy] = useState(false);
  const [error, setError] = useState(/** @type {any} */ (null));
  const name = useId();
  const same = kind === "corrected" && (!text.trim() || text.trim() === answer.trim());
  const submit = async (event) => {
    event.preventDefault();
    setBusy(true);
    setError(null);
    try {
      await onSend({ kind, text, consent });
    } catch (problem) {
      setError(problem);
      setBusy(false);
    }
  };
  return html`
    <form class="verdict" onSubmit=${submit}>
      <${Choice} legend=${t("verdict")} name=${name} value=${kind} onChange=${setKind}
        options=${["right", "wrong", "corrected"].map((one) => [one, t(`verdict.${one}`)])} />
      ${kind === "corrected" && html`
        <${Field} label=${t("verdict.text")} hint=${same ? t("verdict.text.first") : ""}>
          <textarea rows="2" value=${text} onInput=${(event) => setText(event.currentTarget.value)}></textarea>
        <//>`}
      ${kind && asksConsent && html`
        <label class="check"><input type="checkbox" checked=${consent} onChange=${(event) => setConsent(event.currentTarget.checked)} /><span>${t("feedback.consent")}</span></label>`}
      ${kind && asksConsent && html`<p class="hint">${t("feedback.consent.what")}</p>`}
      <${ErrorNote} error=${error} />
      ${(kind || onCancel) && html`
        <div class="actions">
          <button type="submit" class="primary" disabled=${!kind || same || busy}>${t("verdict.save")}</button>
          ${onCancel && html`<button type="button" class="quiet" onClick=${onCancel}>${t("cancel")}</button>`}
        </div>`}
    </form>`;
}
