/** Compare: one question, several adapters at once, and where their answers differ. */
import { Problem, isAbort } from "../api.js";
import { compare } from "../ask.js";
import { clips, namesOf } from "../clips.js";
import { t } from "../i18n.js";
import { live, speakers } from "../live.js";
import { microphone, stopRecording } from "../microphone.js";
import { Receipts } from "../parts/answer-facts.js";
import { AskOptions, DEFAULTS, faultsOf, sent } from "../parts/ask-options.js";
import { CopyButton, Empty, ErrorNote, Field } from "../parts/basics.js";
import { ClipInput } from "../parts/clip-input.js";
import { Compared } from "../parts/compared.js";
import { Entrants, adaptersIn, titleOf } from "../parts/entrants.js";
import { linkTo, optionsIn } from "../question-link.js";
import { useStore } from "../store.js";
import { useLink } from "../try-form.js";
import { html, useRef, useState } from "../ui.js";

const FIRST = 6; // so many are picked at first
const MOST = 64; // in one request
const EXPECTED = -1; // the place of the expected text among references

/** @typedef {import("../parts/compared.js").Column} Column */

/** @param {{query: URLSearchParams, shown: boolean}} props */
export function Compare({ query, shown }) {
  const { adapters, loaded } = useStore(live);
  const { list } = useStore(clips);
  const { recording } = useStore(microphone);
  const [prompt, setPrompt] = useState("");
  const [expected, setExpected] = useState("");
  const [options, setOptions] = useState(DEFAULTS);
  const [added, setAdded] = useState(/** @type {string[]} */ ([]));
  const [turned, setTurned] = useState(/** @type {Record<string, boolean>} */ ({})); // picked or not, where the visitor said so
  const [linked, setLinked] = useState(false); // the link names what answers, and nothing else does
  const [told, setTold] = useState(0);
  const [run, setRun] = useState(/** @type {{columns: Column[], files: string[]}} */ ({ columns: [], files: [] }));
  const [reference, setReference] = useState(EXPECTED);
  const [error, setError] = useState(/** @type {any} */ (null));
  const [busy, setBusy] = useState(false);
  const running = useRef(/** @type {AbortController | null} */ (null));

  const able = speakers(adapters);
  const served = new Set(able.map((one) => one.name));
  const all = ["base", ...able.map((one) => one.name), ...added.filter((one) => adaptersIn(one).every((name) => served.has(name)))];
  const names = all.filter((name, at) => turned[name] ?? (!linked && at < FIRST));
  const gone = loaded ? Object.keys(turned).filter((name) => turned[name] && !all.includes(name)) : [];
  const ready = names.length > 0 && names.length <= MOST && (recording !== null || list.length > 0 || prompt.trim() !== "");

  useLink(shown ? query : null, (link) => {
    if (link.has("prompt")) setPrompt(link.get("prompt") ?? "");
    if (link.has("expected")) setExpected(link.get("expected") ?? "");
    setOptions(optionsIn(link, options));
    const wanted = (link.get("adapters") ?? "").split(",").filter(Boolean);
    if (!wanted.length) return;
    setAdded((now) => [...new Set([...now, ...wanted.filter((one) => /[+:@]/.test(one))])]);
    setTurned(Object.fromEntries(wanted.map((name) => [name, true])));
    setLinked(true);
  });

  const add = (/** @type {string} */ entrant) => { setAdded((now) => [...new Set([...now, entrant])]); setTurned((now) => ({ ...now, [entrant]: true })); };
  const remove = (/** @type {string} */ entrant) => { setAdded((now) => now.filter((one) => one !== entrant)); setTurned((now) => ({ ...now, [entrant]: false })); };
  const change = (index, facts) => setRun((now) => ({ ...now, columns: now.columns.map((one, at) => (at === index ? { ...one, ...facts(one) } : one)) }));
  const submit = async (event) => {
    event.preventDefault();
    if (!ready || busy) return;
    if (Object.keys(faultsOf(options)).length) { setTold(told + 1); return; }
    if (recording) await stopRecording();
    const sounds = clips.get().list;
    running.current = new AbortController();
    setRun({ columns: names.map((name) => ({ name, text: "" })), files: namesOf(sounds) });
    if (reference >= names.length) setReference(EXPECTED);
    setError(null);
    setBusy(true);
    try {
      await compare({ clips: sounds, prompt, options: sent(options), adapter: names.join(",") }, names.length, (index, kind, data) => {
        if (kind === "token") change(index, (one) => ({ text: one.text + data.text }));
        else if (kind === "done") change(index, () => ({ text: data.text, answer: data }));
        else if (kind === "error") change(index, () => ({ error: new Problem(data.error) }));
      }, running.current.signal);
    } catch (problem) {
      if (!isAbort(problem)) setError(problem);
    }
    setBusy(false);
  };

  const hint = names.length === 0 ? t("compare.first.names") : names.length > MOST ? t("compare.most", { most: MOST }) : !ready ? t("ask.first") : "";
  return html`
    <form class="panel ask wide" noValidate onSubmit=${submit} aria-label=${t("ask")} onKeyDown=${(event) => { if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) submit(event); }}>
      <${ClipInput} shown=${shown} />
      <div class="fields wide-fields">
        <${Field} label=${t("prompt")} hint=${t("compare.prompt")}>
          <textarea rows="2" value=${prompt} placeholder=${t("compare.own")} onInput=${(event) => setPrompt(event.currentTarget.value)}></textarea>
        <//>
        <${Field} label=${t("compare.expected")} hint=${t("compare.expected.what")}>
          <textarea rows="2" value=${expected} onInput=${(event) => setExpected(event.currentTarget.value)}></textarea>
        <//>
      </div>
      <${Entrants} all=${all} picked=${new Set(names)} added=${added} adapters=${able} onAdd=${add} onRemove=${remove}
        onToggle=${(name) => setTurned({ ...turned, [name]: !names.includes(name) })} />
      ${gone.length > 0 && html`<p class="note bad" role="status">${t("compare.gone", { names: gone.map(titleOf).join(", ") })}</p>`}
      <${AskOptions} name="compare" options=${options} told=${told} onChange=${setOptions} />
      <div class="actions">
        <button type="submit" class="primary" disabled=${!ready || busy}>${t(recording ? "compare.stop-and-go" : "compare.go")}</button>
        ${busy && html`<button type="button" class="quiet" onClick=${() => running.current?.abort()}>${t("stop")}</button>`}
        <span class=${hint ? "hint" : "hint keys"}>${hint || t("ask.keys")}</span>
      </div>
    </form>
    <${ErrorNote} error=${error} />
    ${run.columns.length === 0
      ? html`<${Empty} title=${t("compare.none")}>${t("compare.none.how")}<//>`
      : html`<${Columns} run=${run} expected=${expected} reference=${reference} busy=${busy} onReference=${setReference}
          link=${linkTo("compare", { prompt, expected, ...sent(options), adapters: names.join(",") })} />`}`;
}

/** @param {{run: {columns: Column[], files: string[]}, expected: string, reference: number, busy: boolean, link: string, onReference: (at: number) => void}} props */
function Columns({ run: { columns, files }, expected, reference, busy, link, onReference }) {
  const isExpected = expected.trim() !== "";
  const place = reference === EXPECTED && !isExpected ? 0 : reference;
  const chosen = columns[place];
  const text = place === EXPECTED ? expected : chosen?.answer || !busy ? chosen?.text ?? null : null;
  const heard = columns.find((one) => one.answer)?.answer.audio ?? [];
  return html`
    <div class="toolbar">
      <label class="line"><span class="label">${t("compare.reference")}</span>
        <select value=${place} onChange=${(event) => onReference(Number(event.currentTarget.value))}>
          ${isExpected && html`<option value=${EXPECTED}>${t("compare.expected")}</option>`}
          ${columns.map((one, at) => html`<option value=${at}>${titleOf(one.name)}</option>`)}
        </select></label>
      <p class="hint"><mark>${t("compare.mark")}</mark> ${t("compare.mark.what")}</p>
      <${CopyButton} text=${link} label=${t("link.copy")} small=${true} />
    </div>
    <div class="columns" aria-busy=${busy}>${columns.map((one, at) => html`
      <${Compared} key=${one.name} column=${one} reference=${text} isReference=${at === place} expected=${expected} busy=${busy} />`)}</div>
    ${heard.length > 0 && html`<section class="panel" aria-label=${t("receipt")}><h2>${t("receipt")}</h2><${Receipts} receipts=${heard} names=${files} /></section>`}`;
}
