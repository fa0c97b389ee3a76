/** Compare: one clip, several adapters at once, and where their answers differ. */
import { Problem, isAbort } from "../api.js";
import { compare } from "../ask.js";
import { differences } from "../differences.js";
import * as format from "../format.js";
import { t } from "../i18n.js";
import { live, speakers } from "../live.js";
import { speed } from "../parts/answer-facts.js";
import { AskOptions, DEFAULTS, sent } from "../parts/ask-options.js";
import { CopyButton, Empty, ErrorNote, Field } from "../parts/basics.js";
import { ClipInput } from "../parts/clip-input.js";
import { useStore } from "../store.js";
import { html, useRef, useState } from "../ui.js";

/** @typedef {{name: string, text: string, answer?: any, error?: any}} Column */

export function Compare() {
  const { adapters } = useStore(live);
  const able = ["base", ...speakers(adapters).map((one) => one.name)];
  const [clips, setClips] = useState(/** @type {any[]} */ ([]));
  const [prompt, setPrompt] = useState("");
  const [options, setOptions] = useState(DEFAULTS);
  const [left, setLeft] = useState(/** @type {Set<string>} */ (new Set()));
  const [columns, setColumns] = useState(/** @type {Column[]} */ ([]));
  const [reference, setReference] = useState(0);
  const [error, setError] = useState(/** @type {any} */ (null));
  const [busy, setBusy] = useState(false);
  const running = useRef(/** @type {AbortController | null} */ (null));
  const names = able.filter((name) => !left.has(name));
  const ready = names.length > 0 && (clips.length > 0 || prompt.trim() !== "");

  const toggle = (name) => { const next = new Set(left); if (!next.delete(name)) next.add(name); setLeft(next); };
  const change = (index, facts) => setColumns((all) => all.map((one, at) => (at === index ? { ...one, ...facts(one) } : one)));
  const submit = async (event) => {
    event.preventDefault();
    if (!ready || busy) return;
    running.current = new AbortController();
    setColumns(names.map((name) => ({ name, text: "" })));
    setReference(0);
    setError(null);
    setBusy(true);
    try {
      await compare({ clips, prompt, options: sent(options), adapter: names.join(",") }, (index, kind, data) => {
        if (kind === "token") change(index, (one) => ({ text: one.text + data.text }));
        else if (kind === "done") change(index, () => ({ text: data.text, answer: data }));
        else if (kind === "error") change(index, () => ({ error: new Problem(data.error) }));
      }, running.current.signal);
    } catch (problem) {
      if (!isAbort(problem)) setError(problem);
    }
    setBusy(false);
  };

  return html`
    <form class="panel ask wide" onSubmit=${submit} aria-label=${t("ask")}>
      <${ClipInput} clips=${clips} onChange=${setClips} most=${1} />
      <div class="fields wide-fields">
        <${Field} label=${t("prompt")} hint=${t("compare.prompt")}>
          <textarea rows="2" value=${prompt} placeholder=${t("compare.own")} onInput=${(event) => setPrompt(event.currentTarget.value)}></textarea>
        <//>
        <fieldset class="picks">
          <legend class="label">${t("compare.with")}</legend>
          ${able.map((name) => html`
            <label key=${name} class="check chip"><input type="checkbox" checked=${!left.has(name)} onChange=${() => toggle(name)} /><span>${name === "base" ? t("choice.base") : name}</span></label>`)}
        </fieldset>
      </div>
      <${AskOptions} options=${options} onChange=${setOptions} />
      <div class="actions">
        <button type="submit" class="primary" disabled=${!ready || busy}>${t("compare.go")}</button>
        ${busy && html`<button type="button" class="quiet" onClick=${() => running.current?.abort()}>${t("stop")}</button>`}
        ${!ready && html`<span class="hint">${t("ask.first")}</span>`}
      </div>
    </form>
    <${ErrorNote} error=${error} />
    ${columns.length === 0
      ? html`<${Empty} title=${t("compare.none")}>${t("compare.none.how")}<//>`
      : html`
        <div class="toolbar">
          <label class="line"><span class="label">${t("compare.reference")}</span>
            <select value=${reference} onChange=${(event) => setReference(Number(event.currentTarget.value))}>
              ${columns.map((one, at) => html`<option value=${at}>${one.name}</option>`)}
            </select></label>
          <p class="hint"><mark>${t("compare.mark")}</mark> ${t("compare.mark.what")}</p>
        </div>
        <div class="columns" aria-busy=${busy}>${columns.map((one, at) => html`
          <${Side} key=${one.name} column=${one} reference=${columns[reference]} isReference=${at === reference} busy=${busy} />`)}</div>`}`;
}

/** @param {{column: Column, reference: Column, isReference: boolean, busy: boolean}} props */
function Side({ column, reference, isReference, busy }) {
  const { name, text, answer, error } = column;
  const whole = (answer && reference.answer) || !busy; // marks that come and go while words arrive would only disturb
  const marked = isReference || error || !whole ? [{ text, same: true }] : differences(reference.text, text);
  const going = busy && !answer && !error;
  const rate = answer ? speed(answer) : null;
  return html`
    <section class="panel column" aria-label=${name}>
      <header class="panel-head"><h2>${name === "base" ? t("choice.base") : name}</h2>${isReference && html`<span class="badge">${t("compare.is-reference")}</span>`}</header>
      ${error && html`<${ErrorNote} error=${error} />`}
      <p class=${going ? "words running" : "words"} data-testid="column">${marked.map((run) => (run.same ? run.text : html`<mark>${run.text}</mark>`))}</p>
      <footer class="numbers small muted">
        ${answer ? `${format.milliseconds(answer.timings_ms.ttft)} · ${format.milliseconds(answer.timings_ms.total)}${rate ? ` · ${format.number(rate)} ${t("per-second")}` : ""}` : t(going ? "answer.waiting" : "answer.stopped")}
        ${answer && html`<${CopyButton} text=${text} small=${true} />`}
      </footer>
    </section>`;
}
