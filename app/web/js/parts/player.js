/** A recording as a waveform that plays; the slider over it seeks, by keyboard too. A part of it can be marked. */
import { soundName, soundOf } from "../audio/clip.js";
import { drawPeaks } from "../audio/waveform.js";
import * as format from "../format.js";
import { t } from "../i18n.js";
import { useStore } from "../store.js";
import { theme } from "../theme.js";
import { html, useEffect, useRef, useState } from "../ui.js";
import { Icon } from "./icons.js";
import { RegionFields, useMarking } from "./region.js";
import { save } from "./save.js";

/**
 * ``onRegion``: a part of the recording was marked, or `null` for all of it; without, none can be.
 * @param {{clip: import("../audio/clip.js").Clip, onRemove?: () => void, onRegion?: (region: any) => void, canSave?: boolean}} props
 */
export function Player({ clip, onRemove, onRegion, canSave = false }) {
  const audio = useRef(/** @type {HTMLAudioElement | null} */ (null));
  const [playing, setPlaying] = useState(false);
  const [at, setAt] = useState(0);
  const [failed, setFailed] = useState(false);
  const seconds = clip.seconds ?? 0;
  const region = clip.region;
  const last = useRef(seconds);
  last.current = region?.end ?? Infinity;
  useEffect(() => {
    if (!playing) return undefined;
    let frame = 0;
    const follow = () => {
      const now = audio.current?.currentTime ?? 0;
      setAt(now);
      if (now >= last.current) audio.current?.pause();
      else frame = requestAnimationFrame(follow);
    };
    follow();
    return () => cancelAnimationFrame(frame);
  }, [playing]);
  const toggle = () => {
    if (playing) { audio.current?.pause(); return; }
    if (region && !(at >= region.start && at < region.end - 0.05)) seek(region.start);
    audio.current?.play().catch(() => setFailed(true));
  };
  const seek = (/** @type {number} */ to) => {
    if (audio.current) audio.current.currentTime = to;
    setAt(to);
  };
  const marking = useMarking(seconds, onRegion ?? null, seek);
  return html`
    <div class="player">
      <button type="button" class="round" onClick=${toggle} disabled=${failed} aria-label=${t(playing ? "pause" : "play", { name: clip.name })}>
        <${Icon} name=${playing ? "pause" : "play"} />
      </button>
      <div class="player-body">
        <div class=${onRegion && seconds ? "player-wave marks" : "player-wave"} ...${marking}>
          <${Wave} peaks=${clip.peaks} played=${seconds ? at / seconds : 0} />
          ${region && html`<span class="region" aria-hidden="true" style=${{ "--from": region.start / seconds, "--to": region.end / seconds }}></span>`}
          <input type="range" min="0" max=${seconds || 1} step="0.01" value=${at} onInput=${(event) => seek(Number(event.currentTarget.value))} disabled=${!seconds}
            aria-label=${t("seek", { name: clip.name })} aria-valuetext=${t("seek.at", { at: format.number(at, 1) })} />
        </div>
      </div>
      ${canSave && html`
        <button type="button" class="round quiet" onClick=${async () => save(await soundOf(clip), soundName(clip))} aria-label=${t("clips.save", { name: soundName(clip) })} title=${t("clips.save", { name: soundName(clip) })}><${Icon} name="download" /></button>`}
      ${onRemove && html`
        <button type="button" class="round quiet" onClick=${onRemove} aria-label=${t("remove", { name: clip.name })} title=${t("remove", { name: clip.name })}><${Icon} name="close" /></button>`}
      <div class="player-line">
        <span class="name" title=${clip.name}>${clip.name}</span>
        <span class="numbers muted">${failed ? t("play.failed") : seconds ? `${format.number(seconds, 2)} s` : ""} · ${format.bytes(clip.blob.size)}</span>
      </div>
      ${onRegion && seconds > 0 && html`<${RegionFields} clip=${clip} at=${at} onRegion=${onRegion} />`}
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
