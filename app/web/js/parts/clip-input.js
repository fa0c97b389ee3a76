/** Recordings for a question: from the microphone, dropped, or the sample that comes with the page. */
import { address } from "../api.js";
import { makeClip } from "../audio/clip.js";
import { record } from "../audio/recorder.js";
import { drawLevels } from "../audio/waveform.js";
import * as format from "../format.js";
import { t } from "../i18n.js";
import { html, useEffect, useRef, useState } from "../ui.js";
import { ErrorNote } from "./basics.js";
import { DropZone } from "./drop-zone.js";
import { Icon } from "./icons.js";
import { Player } from "./player.js";

/**
 * @param {{clips: import("../audio/clip.js").Clip[], onChange: (clips: any[]) => void, most?: number}} props
 */
export function ClipInput({ clips, onChange, most = 8 }) {
  const [error, setError] = useState(/** @type {any} */ (null));
  const add = async (/** @type {{blob: Blob, name: string}[]} */ found) => {
    setError(null);
    const made = await Promise.all(found.map(({ blob, name }) => makeClip(blob, name)));
    onChange([...clips, ...made].slice(-most));
  };
  const sample = async () => add([{ blob: await (await fetch(address("web/demo.flac"))).blob(), name: "demo.flac" }]);
  return html`
    <div class="clip-input">
      <div class="sources">
        <${Microphone} onClip=${(clip) => add([clip])} onError=${setError} />
        <${DropZone} label=${t("clips.drop")} accept="audio/*,video/mp4,video/webm,.flac,.opus,.m4a" multiple=${most > 1}
          onFiles=${(files) => add(files.map((file) => ({ blob: file, name: file.name })))} />
      </div>
      <${ErrorNote} error=${error} />
      ${clips.map((clip) => html`
        <${Player} key=${clip.id} clip=${clip} onRemove=${() => onChange(clips.filter((one) => one !== clip))} />`)}
      ${clips.length === 0 && html`
        <p class="hint">${t("clips.none")} <button type="button" class="link" onClick=${sample}>${t("clips.sample")}</button></p>`}
    </div>`;
}

/** A button that records until it is pressed again, with level meter and waveform. */
function Microphone({ onClip, onError }) {
  const [recording, setRecording] = useState(/** @type {any} */ (null));
  const [level, setLevel] = useState(0);
  const [seconds, setSeconds] = useState(0);
  const canvas = useRef(/** @type {HTMLCanvasElement | null} */ (null));
  const current = useRef(/** @type {any} */ (null));
  current.current = recording;
  useEffect(() => () => { current.current?.stop(); }, []); // the microphone is let go with the view
  useEffect(() => {
    if (!recording) return undefined;
    /** @type {number[]} */
    const levels = [];
    const begun = performance.now();
    const timer = setInterval(() => {
      const now = recording.level();
      levels.push(now);
      setLevel(now);
      setSeconds((performance.now() - begun) / 1000);
      if (canvas.current) drawLevels(canvas.current, levels);
    }, 50);
    return () => clearInterval(timer);
  }, [recording]);
  const start = async () => {
    onError(null);
    try { setRecording(await record()); } catch (error) { onError(error); }
  };
  const stop = async () => {
    setRecording(null);
    const { blob, extension } = await recording.stop();
    onClip({ blob, name: `${t("mic.name")} ${format.clock(Date.now())}.${extension}` });
  };
  return html`
    <div class=${recording ? "mic on" : "mic"}>
      <button type="button" class="record" onClick=${recording ? stop : start} aria-pressed=${recording ? "true" : "false"}>
        <span class="dot" aria-hidden="true"></span><span>${t(recording ? "mic.stop" : "mic.start")}</span>
      </button>
      ${recording && html`
        <div class="mic-live">
          <canvas ref=${canvas} class="wave" aria-hidden="true"></canvas>
          <div class="mic-line">
            <meter min="0" max="1" low="0.25" high="0.97" optimum="0.6" value=${level} aria-label=${t("mic.level")}></meter>
            <span class="numbers" role="timer">${format.number(seconds, 1)} s</span>
          </div>
        </div>`}
    </div>`;
}
