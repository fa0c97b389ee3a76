/** Try: record or drop, ask one adapter, watch the answer come, ask on. */
import { isAbort } from "../api.js";
import { ask, classify } from "../ask.js";
import { clips, sameClips, showClips } from "../clips.js";
import { change, history, keepById, remember } from "../history.js";
import { t } from "../i18n.js";
import { heads, live } from "../live.js";
import { microphone, stopRecording } from "../microphone.js";
import { AdapterChoice, BASE, written } from "../parts/adapter-choice.js";
import { AnswerPanel } from "../parts/answer-panel.js";
import { AskOptions, DEFAULTS, faultsOf, sent } from "../parts/ask-options.js";
import { Field } from "../parts/basics.js";
import { ClipInput } from "../parts/clip-input.js";
import { HistoryPanel } from "../parts/history-panel.js";
import { chosenIn, optionsIn } from "../question-link.js";
import { randomId, useStore } from "../store.js";
import { useDraft, useLink, useServed } from "../try-form.js";
import { html, useEffect, useRef, useState } from "../ui.js";

const NARROW = matchMedia("(max-width: 52rem)"); // the answer lies below what is asked
const EMPTY = { prompt: "", options: DEFAULTS, chosen: BASE };

/** @param {{query: URLSearchParams, shown: boolean}} props */
export function Try({ query, shown: visible }) {
  const { adapters } = useStore(live);
  const { list } = useStore(clips);
  const { asked } = useStore(history);
  const { recording } = useStore(microphone);
  const [form, setForm] = useState(/** @type {import("../question-link.js").Form} */ (EMPTY));
  const [shown, setShown] = useState(/** @type {string | null} */ (null));
  const [put, setPut] = useState(/** @type {any} */ (null)); // what the history has replaced on the form
  const [told, setTold] = useState(0);
  const running = useRef(/** @type {AbortController | null} */ (null));
  const { prompt, options, chosen } = form;
  const set = (/** @type {Partial<typeof form>} */ facts) => setForm((now) => ({ ...now, ...facts }));

  const loaded = useDraft({ ...form, shown, clips: list }, (draft) => { setForm({ prompt: draft.prompt, options: draft.options, chosen: draft.chosen }); setShown(draft.shown); });
  useLink(visible && loaded ? query : null, (link) => set({
    ...(link.has("adapter") ? { chosen: chosenIn(link.get("adapter") ?? "") } : {}),
    ...(link.has("prompt") ? { prompt: link.get("prompt") ?? "" } : {}),
    options: optionsIn(link, options),
  }));
  const gone = useServed(chosen, (next) => set({ chosen: next }));

  const current = asked.find((one) => one.id === shown) ?? null;
  const stale = current !== null && !sameClips(current.question.clips, list);
  const going = current?.state === "running";
  // an old answer does not stay beside a new recording; one that is still coming does, and is marked
  useEffect(() => { if (stale && !going) setShown((now) => (now === current.id ? null : now)); }, [list]);

  const adapter = written(chosen);
  const named = chosen.kind === "one" ? adapters.find((one) => one.name === chosen.name) : null;
  const labels = heads(adapters).some((one) => one === named);
  const usual = named?.manifest?.prompt ?? t("prompt.usual");
  const busy = asked.some((one) => one.state === "running");
  const ready = adapter !== "" && (recording !== null || list.length > 0 || (prompt.trim() !== "" && !labels));

  /** @param {any} facts  of the question */
  const send = async (facts) => {
    const stop = new AbortController();
    running.current = stop;
    setPut(null);
    const one = { ...facts, id: randomId(), state: "running", text: "", pieces: 0, time: Date.now() };
    setShown(one.id);
    remember(one);
    if (NARROW.matches) requestAnimationFrame(() => document.querySelector(".answer")?.scrollIntoView({ block: "start" }));
    try {
      const answer = one.labels ? await classify(one.question, stop.signal) : await ask(one.question, (text) => change(one.id, (now) => grown(now, text)), stop.signal);
      change(one.id, () => ({ state: "done", answer, text: answer.text ?? answer.label ?? "" }));
    } catch (error) {
      change(one.id, () => (isAbort(error) ? { state: "stopped" } : { state: "failed", error }));
    }
    await keepById(one.id);
  };
  const submit = async (event) => {
    event.preventDefault();
    if (!ready || busy) return;
    if (!labels && Object.keys(faultsOf(options)).length) { setTold(told + 1); return; }
    if (recording) await stopRecording();
    const question = { clips: clips.get().list, prompt, options: labels ? {} : sent(options), adapter };
    if (question.clips.length || prompt.trim()) send({ question, asked: prompt.trim() || usual, options, chosen, labels });
  };
  const follow = (/** @type {import("../parts/answer-panel.js").Asked} */ one, /** @type {string} */ text) => {
    const earlier = [...(one.question.earlier ?? []), { prompt: one.asked, text: one.text }];
    send({ ...pick(one), asked: text.trim(), question: { ...one.question, prompt: text, earlier } });
  };
  const show = (/** @type {any} */ one) => { // on the form as it was asked
    const was = { ...form, clips: list, shown };
    const isKept = asked.some((other) => sameForm(other, was)) || (!list.length && !prompt.trim());
    setPut(isKept ? null : was);
    bringToForm({ prompt: firstPrompt(one), options: one.options, chosen: one.chosen, clips: one.question.clips, shown: one.id });
  };
  const bringToForm = (/** @type {any} */ { prompt: words, options: values, chosen: who, clips: sounds, shown: which }) => {
    showClips(sounds);
    setForm({ prompt: words, options: values, chosen: who });
    setShown(which);
  };

  return html`
    <div class="two">
      <form class="panel ask" noValidate onSubmit=${submit} aria-label=${t("ask")} onKeyDown=${(event) => { if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) submit(event); }}>
        ${put && html`<p class="note plain small" role="status"><span>${t("history.put")} <button type="button" class="link" onClick=${() => { bringToForm(put); setPut(null); }}>${t("history.put.back")}</button></span></p>`}
        <${ClipInput} shown=${visible} />
        ${!labels && html`
          <${Field} label=${t("prompt")}>
            <textarea rows="2" value=${prompt} placeholder=${usual} onInput=${(event) => set({ prompt: event.currentTarget.value })}></textarea>
          <//>`}
        <${AdapterChoice} chosen=${chosen} adapters=${adapters} onChange=${(next) => set({ chosen: next })} />
        ${gone && html`<p class="note bad" role="status">${t("choice.gone", { name: gone })}</p>`}
        ${!labels && html`<${AskOptions} name="try" options=${options} told=${told} onChange=${(next) => set({ options: next })} />`}
        <div class="actions"><button type="submit" class="primary" disabled=${!ready || busy}>${t(recording ? "ask.stop-and-ask" : labels ? "ask.classify" : "ask.go")}</button>
          ${busy && current?.state !== "running" ? html`<span class="hint">${t("answer.waiting")}</span>` : !ready ? html`<span class="hint">${t(labels ? "ask.first.recording" : adapter === "" ? "ask.first.adapter" : "ask.first")}</span>` : html`<span class="hint keys">${t("ask.keys")}</span>`}</div>
      </form>
      <div class="stack">
        <${AnswerPanel} asked=${current} stale=${stale} busy=${busy} onStop=${() => running.current?.abort()}
          onAgain=${() => current && send(pick(current))} onFollow=${(text) => current && follow(current, text)} />
        <${HistoryPanel} shown=${shown} onPick=${show} />
      </div>
    </div>`;
}

/** What makes a question, without what came of it. @param {import("../parts/answer-panel.js").Asked} one */
const pick = ({ question, asked, options, chosen, labels }) => ({ question, asked, options, chosen, labels });

/** What the form holds of a conversation: how it began. @param {import("../parts/answer-panel.js").Asked} one */
const firstPrompt = ({ question }) => question.earlier?.[0]?.prompt ?? question.prompt;

/** @param {import("../parts/answer-panel.js").Asked} one @param {any} form */
const sameForm = (one, form) => firstPrompt(one) === form.prompt && sameClips(one.question.clips, form.clips);

/** @param {import("../parts/answer-panel.js").Asked} one @param {string} text */
function grown(one, text) {
  const now = performance.now();
  return { text: one.text + text, pieces: one.pieces + 1, first: one.first ?? now, latest: now };
}
