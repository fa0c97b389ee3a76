/** A button that records until it is pressed again, with level meter and waveform. */
import { drawLevels } from "../audio/waveform.js";
import * as format from "../format.js";
import { t } from "../i18n.js";
import { microphone, startRecording, stopRecording } from "../microphone.js";
import { useStore } from "../store.js";
import { html, useEffect, useRef, useState } from "../ui.js";

/** @param {{joining: boolean}} props */
export function Microphone({ joining }) {
  const { recording, opening } = useStore(microphone);
  const [level, setLevel] = useState(0);
  const [seconds, setSeconds] = useState(0);
  const canvas = useRef(/** @type {HTMLCanvasElement | null} */ (null));
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
    return () => { clearInterval(timer); setSeconds(0); };
  }, [recording]);
  return html`
    <div class=${recording ? "mic on" : "mic"}>
      <button type="button" class="record" disabled=${opening} onClick=${recording ? stopRecording : () => startRecording(joining)} aria-pressed=${recording ? "true" : "false"}>
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
