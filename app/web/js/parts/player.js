/** A recording as a waveform that plays; the slider over it seeks, by keyboard too. */
import { drawPeaks } from "../audio/waveform.js";
import * as format from "../format.js";
import { t } from "../i18n.js";
import { useStore } from "../store.js";
import { theme } from "../theme.js";
import { html, useEffect, useRef, useState } from "../ui.js";
import { Icon } from "./icons.js";

/** @param {{clip: import("../audio/clip.js").Clip, onRemove?: () => void}} props */
export function Player({ clip, onRemove }) {
  const audio = useRef(/** @type {HTMLAudioElement | null} */ (null));
  const [playing, setPlaying] = useState(false);
  const [at, setAt] = useState(0);
  const [failed, setFailed] = useState(false);
  const seconds = clip.seconds ?? 0;
  useEffect(() => {
    if (!playing) return undefined;
    let frame = 0;
    const follow = () => { setAt(audio.current?.currentTime ?? 0); frame = requestAnimationFrame(follow); };
    follow();
    return () => cancelAnimationFrame(frame);
  }, [playing]);
  const toggle = () => {
    if (playing) audio.current?.pause();
    else audio.current?.play().catch(() => setFailed(true));
  };
  const seek = (event) => {
    const to = Number(event.currentTarget.value);
    if (audio.current) audio.current.currentTime = to;
    setAt(to);
  };
  return html`
    <div class="player">
      <button type="button" class="round" onClick=${toggle} disabled=${failed} aria-label=${t(playing ? "pause" : "play", { name: clip.name })}>
        <${Icon} name=${playing ? "pause" : "play"} />
      </button>
      <div class="player-body">
        <div class="player-wave">
          <${Wave} peaks=${clip.peaks} played=${seconds ? at / seconds : 0} />
          <input type="range" min="0" max=${seconds || 1} step="0.01" value=${at} onInput=${seek} disabled=${!seconds}
            aria-label=${t("seek", { name: clip.name })} aria-valuetext=${t("seek.at", { at: format.number(at, 1) })} />
        </div>
        <div class="player-line">
          <span class="name">${clip.name}</span>
          <span class="numbers muted">${failed ? t("play.failed") : seconds ? `${format.number(seconds, 2)} s` : ""} · ${format.bytes(clip.blob.size)}</span>
        </div>
      </div>
      ${onRemove && html`
        <button type="button" class="round quiet" onClick=${onRemove} aria-label=${t("remove", { name: clip.name })}><${Icon} name="close" /></button>`}
      <audio ref=${audio} src=${clip.url} preload="metadata"
        onPlay=${() => setPlaying(true)} onPause=${() => setPlaying(false)} onEnded=${() => { setPlaying(false); setAt(0); }}></audio>
    </div>`;
}

/** @param {{peaks: Float32Array | null, played: number}} props */
function Wave({ peaks, played }) {
  const canvas = useRef(/** @type {HTMLCanvasElement | null} */ (null));
  const colours = useStore(theme);
  const draw = useRef(() => {});
  draw.current = () => { if (canvas.current && peaks) drawPeaks(canvas.current, peaks, played); };
  useEffect(() => { draw.current(); }, [peaks, played, colours]);
  useEffect(() => {
    const watch = new ResizeObserver(() => draw.current());
    if (canvas.current) watch.observe(canvas.current);
    return () => watch.disconnect();
  }, []);
  return html`<canvas ref=${canvas} class="wave" aria-hidden="true"></canvas>`;
}
