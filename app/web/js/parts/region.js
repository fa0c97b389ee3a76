/** The part of a recording that is asked about: marked with the pointer, or written in seconds. */
import * as format from "../format.js";
import { t } from "../i18n.js";
import { html, useRef } from "../ui.js";
import { Icon } from "./icons.js";

const LEAST = 0.1; // seconds
const DRAGGED = 6; // CSS pixels; less is a click, which seeks

/** @param {number} from @param {number} to @param {number} seconds */
function within(from, to, seconds) {
  const start = Math.max(0, Math.min(from, seconds - LEAST));
  return { start: hundredth(start), end: hundredth(Math.min(seconds, Math.max(to, start + LEAST))) };
}
const hundredth = (/** @type {number} */ value) => Math.round(100 * value) / 100;

/**
 * Pointer events for a waveform: dragging marks, a click seeks.
 * @param {number} seconds
 * @param {((region: {start: number, end: number}) => void) | null} onRegion
 * @param {(to: number) => void} onSeek
 */
export function useMarking(seconds, onRegion, onSeek) {
  const from = useRef(/** @type {{x: number, dragging: boolean} | null} */ (null));
  if (!onRegion || !seconds) return {};
  const at = (event, /** @type {number} */ x) => {
    const { left, width } = event.currentTarget.getBoundingClientRect();
    return seconds * Math.min(1, Math.max(0, (x - left) / width));
  };
  return {
    onPointerDown: (event) => {
      if (event.button !== 0) return;
      event.currentTarget.setPointerCapture(event.pointerId);
      from.current = { x: event.clientX, dragging: false };
    },
    onPointerMove: (event) => {
      const begun = from.current;
      if (!begun || (!begun.dragging && Math.abs(event.clientX - begun.x) < DRAGGED)) return;
      begun.dragging = true;
      const ends = [at(event, begun.x), at(event, event.clientX)].sort((a, b) => a - b);
      onRegion(within(ends[0], ends[1], seconds));
    },
    onPointerUp: (event) => {
      if (from.current && !from.current.dragging) onSeek(at(event, event.clientX));
      from.current = null;
    },
    onPointerCancel: () => { from.current = null; },
  };
}

/**
 * The same by keyboard.
 * @param {{clip: import("../audio/clip.js").Clip, at: number, onRegion: (region: any) => void}} props
 */
export function RegionFields({ clip, at, onRegion }) {
  const { region, name } = clip;
  const seconds = /** @type {number} */ (clip.seconds);
  if (!region) {
    const start = at < seconds - LEAST ? at : 0;
    return html`
      <button type="button" class="link small region-line" onClick=${() => onRegion(within(start, start ? seconds : seconds / 2, seconds))}
        aria-label=${t("region.begin.of", { name })}>${t("region.begin")}</button>`;
  }
  const move = (/** @type {"start" | "end"} */ end, /** @type {number} */ to) =>
    onRegion(end === "start" ? within(to, Math.max(region.end, to + LEAST), seconds) : within(Math.min(region.start, Math.max(0, to - LEAST)), to, seconds));
  const field = (/** @type {"start" | "end"} */ end) => html`
    <label><span>${t(`region.${end}`)}</span>
      <input type="number" min="0" max=${hundredth(seconds)} step="0.1" value=${region[end]} onChange=${(event) => move(end, Number(event.currentTarget.value))}
        onKeyDown=${(event) => {
          if (event.key !== "Enter" || event.ctrlKey || event.metaKey) return;
          event.preventDefault(); // it ends the number, and asks nothing yet
          move(end, Number(event.currentTarget.value));
        }} /></label>`;
  return html`
    <div class="region-line" role="group" aria-label=${t("region.of", { name })}>
      <span class="small">${t("region.only")}</span>${field("start")}${field("end")}
      <span class="small muted numbers">${t("region.length", { seconds: format.number(region.end - region.start, 2) })}</span>
      <button type="button" class="quiet small" onClick=${() => onRegion(null)}><${Icon} name="close" />${t("region.whole")}</button>
    </div>`;
}
