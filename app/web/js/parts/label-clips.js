/** Recordings that nobody has asked about yet: the model's answers to them become drafts, to be judged below. */
import { isAbort } from "../api.js";
import { pathOf } from "../dropped.js";
import { draftOf } from "../feedback.js";
import * as format from "../format.js";
import { t } from "../i18n.js";
import { live, speakers } from "../live.js";
import { wordsOf } from "../problem-words.js";
import { useStore } from "../store.js";
import { html, useRef, useState } from "../ui.js";
import { ErrorNote, Field, Progress } from "./basics.js";
import { DropZone } from "./drop-zone.js";

const AT_ONCE = 4; // requests: the server answers them in one batch
const FEW = 5; // failures that are shown
const SOUND = /\.(wav|flac|ogg|oga|opus|mp3|m4a|mp4|webm|aac|aiff?|au|caf)$/i;

/** @param {File} file */
const isSound = (file) => /^(audio|video)\//.test(file.type) || SOUND.test(file.name);

/** @param {{onDrafts: () => void}} props  ``onDrafts``: there are new rows */
export function LabelClips({ onDrafts }) {
  const { adapters } = useStore(live);
  const [files, setFiles] = useState(/** @type {File[]} */ ([]));
  const [aside, setAside] = useState(0); // files that are no recordings
  const [prompt, setPrompt] = useState("");
  const [adapter, setAdapter] = useState("base");
  const [run, setRun] = useState(/** @type {{done: number, total: number, failed: string[]} | null} */ (null));
  const [error, setError] = useState(/** @type {any} */ (null));
  const running = useRef(/** @type {AbortController | null} */ (null));
  const busy = run !== null && run.done < run.total && running.current !== null;

  const take = (/** @type {File[]} */ found) => {
    const sounds = found.filter(isSound);
    setAside(found.length - sounds.length);
    setFiles(sounds);
    setRun(null);
    setError(null);
  };
  const start = async (/** @type {Event} */ event) => {
    event.preventDefault();
    const stop = new AbortController();
    running.current = stop;
    const state = { done: 0, total: files.length, failed: /** @type {string[]} */ ([]) };
    setError(null);
    setRun({ ...state });
    const left = [...files];
    const work = async () => {
      for (let file = left.shift(); file; file = left.shift()) {
        try {
          await draftOf(file, { prompt, adapter }, stop.signal);
        } catch (problem) {
          if (problem.status !== 415 && problem.status !== 413 && problem.status !== 422) throw problem;
          state.failed.push(`${pathOf(file)}: ${wordsOf(problem).lead}`); // this recording alone
        }
        state.done += 1;
        setRun({ ...state });
      }
    };
    try {
      await Promise.all(Array.from({ length: Math.min(AT_ONCE, files.length) }, work));
    } catch (problem) {
      stop.abort();
      if (!isAbort(problem)) setError(problem);
    }
    running.current = null;
    setFiles(left);
    setRun({ ...state });
    onDrafts();
  };
  const asked = files.length > 0 && !busy;
  return html`
    <form class="panel ask" aria-label=${t("label")} onSubmit=${start}>
      <${DropZone} label=${t("label.drop")} hint=${t("label.what")} multiple=${true} folders=${true} accept="audio/*,video/mp4,video/webm,.flac,.opus,.m4a" disabled=${busy} onFiles=${take} />
      ${aside > 0 && html`<p class="hint" role="status">${t("label.aside", { count: format.number(aside) })}</p>`}
      ${asked && html`
        <p class="small" role="status">${t("label.chosen", { count: format.number(files.length), names: files.slice(0, 3).map(pathOf).join(", ") + (files.length > 3 ? " …" : "") })}</p>
        <div class="fields wide-fields">
          <${Field} label=${t("choice.legend")}>
            <select value=${adapter} onChange=${(event) => setAdapter(event.currentTarget.value)}>
              <option value="base">${t("choice.base")}</option>${speakers(adapters).map((one) => html`<option value=${one.name}>${one.name}</option>`)}
            </select>
          <//>
          <${Field} label=${t("prompt")}>
            <input type="text" maxlength="20000" placeholder=${t("label.prompt")} value=${prompt} onInput=${(event) => setPrompt(event.currentTarget.value)} />
          <//>
        </div>
        <p class="hint">${t("label.kept")}</p>
        <div class="actions"><button type="submit" class="primary">${t("label.go")}</button><button type="button" class="quiet" onClick=${() => take([])}>${t("cancel")}</button></div>`}
      ${busy && html`<div class="line"><${Progress} label=${t("label.going", { done: format.number(run.done), total: format.number(run.total) })} share=${run.done / run.total} />
        <button type="button" class="quiet" onClick=${() => running.current?.abort()}>${t("stop")}</button></div>`}
      ${run && !busy && html`<p class="small" role="status">${t("label.done", { count: format.number(run.done - run.failed.length) })}</p>`}
      ${run && run.failed.length > 0 && html`
        <div class="note bad" role="alert"><div><p>${t("label.failed", { count: format.number(run.failed.length) })}</p>
          <ul>${run.failed.slice(0, FEW).map((line) => html`<li>${line}</li>`)}</ul></div></div>`}
      <${ErrorNote} error=${error} />
    </form>`;
}
