/** Try: record or drop, ask one adapter, watch the answer come. */
import { isAbort } from "../api.js";
import { ask, classify } from "../ask.js";
import * as format from "../format.js";
import { t } from "../i18n.js";
import { heads, live } from "../live.js";
import { AdapterChoice, BASE, written } from "../parts/adapter-choice.js";
import { AnswerPanel } from "../parts/answer-panel.js";
import { AskOptions, DEFAULTS, sent } from "../parts/ask-options.js";
import { Field } from "../parts/basics.js";
import { ClipInput } from "../parts/clip-input.js";
import { useStore } from "../store.js";
import { html, useEffect, useRef, useState } from "../ui.js";

const KEPT = 50; // questions in the history
const NARROW = matchMedia("(max-width: 52rem)"); // the answer lies below what is asked

/** @param {{query: URLSearchParams}} props */
export function Try({ query }) {
  const { adapters } = useStore(live);
  const [clips, setClips] = useState(/** @type {any[]} */ ([]));
  const [prompt, setPrompt] = useState("");
  const [options, setOptions] = useState(DEFAULTS);
  const [chosen, setChosen] = useState(BASE);
  const [history, setHistory] = useState(/** @type {import("../parts/answer-panel.js").Asked[]} */ ([]));
  const [shown, setShown] = useState(/** @type {number | null} */ (null));
  const running = useRef(/** @type {AbortController | null} */ (null));
  const wanted = query.get("adapter");
  useEffect(() => { if (wanted) setChosen({ ...BASE, kind: "one", name: wanted }); }, [wanted]);

  const adapter = written(chosen);
  const named = chosen.kind === "one" ? adapters.find((one) => one.name === chosen.name) : null;
  const labels = heads(adapters).some((one) => one === named);
  const usual = named?.manifest?.prompt ?? t("prompt.usual");
  const busy = history.some((one) => one.state === "running");
  const ready = adapter !== "" && (clips.length > 0 || (prompt.trim() !== "" && !labels));

  const change = (id, facts) => setHistory((all) => all.map((one) => (one.id === id ? { ...one, ...facts(one) } : one)));
  const submit = async (event) => {
    event.preventDefault();
    if (!ready || busy) return;
    const stop = new AbortController();
    running.current = stop;
    const question = { clips, prompt, options: sent(options), adapter };
    const id = Date.now();
    setHistory((all) => [{ id, question, chosen, labels, state: "running", text: "", pieces: 0, begun: performance.now(), time: id }, ...all].slice(0, KEPT));
    setShown(id);
    if (NARROW.matches) requestAnimationFrame(() => document.querySelector(".answer")?.scrollIntoView({ block: "start" }));
    try {
      const answer = labels ? await classify(question, stop.signal) : await ask(question, (text) => change(id, (one) => grown(one, text)), stop.signal);
      change(id, () => ({ state: "done", answer, text: answer.text ?? answer.label ?? "" }));
    } catch (error) {
      change(id, () => (isAbort(error) ? { state: "stopped" } : { state: "failed", error }));
    }
  };
  const again = (one) => { setShown(one.id); setClips(one.question.clips); setPrompt(one.question.prompt); setChosen(one.chosen); };

  return html`
    <div class="two">
      <form class="panel ask" onSubmit=${submit} aria-label=${t("ask")}>
        <${ClipInput} clips=${clips} onChange=${setClips} />
        ${!labels && html`
          <${Field} label=${t("prompt")}>
            <textarea rows="2" value=${prompt} placeholder=${usual} onInput=${(event) => setPrompt(event.currentTarget.value)}
              onKeyDown=${(event) => { if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) submit(event); }}></textarea>
          <//>`}
        <${AdapterChoice} chosen=${chosen} adapters=${adapters} onChange=${setChosen} />
        ${!labels && html`<${AskOptions} options=${options} onChange=${setOptions} />`}
        <div class="actions"><button type="submit" class="primary" disabled=${!ready || busy}>${t(labels ? "ask.classify" : "ask.go")}</button>
          ${!ready && html`<span class="hint">${t("ask.first")}</span>`}</div>
      </form>
      <div class="stack">
        <${AnswerPanel} asked=${history.find((one) => one.id === shown) ?? null} onStop=${() => running.current?.abort()} />
        ${history.length > 0 && html`<${History} history=${history} shown=${shown} onPick=${again} onClear=${() => { setHistory(history.filter((one) => one.state === "running")); setShown(null); }} />`}
      </div>
    </div>`;
}

/** @param {import("../parts/answer-panel.js").Asked} one @param {string} text */
function grown(one, text) {
  const now = performance.now();
  return { text: one.text + text, pieces: one.pieces + 1, first: one.first ?? now, latest: now };
}

const History = ({ history, shown, onPick, onClear }) => html`
  <section class="panel history" aria-label=${t("history")}>
    <header class="panel-head"><h2>${t("history")}</h2><button type="button" class="quiet small" onClick=${onClear}>${t("history.clear")}</button></header>
    <ol>${history.map((one) => html`
      <li key=${one.id}>
        <button type="button" class="row" aria-current=${one.id === shown ? "true" : undefined} onClick=${() => onPick(one)}>
          <span class="numbers muted">${format.clock(one.time)}</span>
          <span class="name">${one.question.adapter.replaceAll(",", " + ")}</span>
          <span class="cut">${one.text || t(`answer.${one.state === "running" ? "waiting" : one.state}`)}</span>
        </button>
      </li>`)}</ol>
    <p class="hint">${t("history.kept")}</p>
  </section>`;
