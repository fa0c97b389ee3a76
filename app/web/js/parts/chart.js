/** Lines over steps, drawn as SVG in the width that there is. */
import * as format from "../format.js";
import { html, useEffect, useRef, useState } from "../ui.js";

const HEIGHT = 220;
const LEFT = 48;
const BOTTOM = 26;
const TOP = 10;
const RIGHT = 12;
const MOST = 600; // points of a line

/**
 * @typedef {object} Line
 * @property {string} name
 * @property {string} kind  a class of chart.css
 * @property {[number, number][]} points
 * @property {boolean} [dots]
 */

/** @param {{lines: Line[], label: string, xLabel: string, xMost?: number}} props */
export function Chart({ lines, label, xLabel, xMost = 0 }) {
  const [box, width] = useWidth();
  const all = lines.flatMap((line) => line.points);
  const right = Math.max(xMost, ...all.map(([x]) => x), 1);
  const ticks = nice(Math.max(...all.map(([, y]) => y).filter(Number.isFinite), 1e-9));
  const top = ticks[ticks.length - 1];
  const x = (/** @type {number} */ step) => LEFT + (step / right) * (width - LEFT - RIGHT);
  const y = (/** @type {number} */ value) => TOP + (1 - value / top) * (HEIGHT - TOP - BOTTOM);
  const latest = lines.filter((line) => line.points.length).map((line) => `${line.name}: ${told(line.points[line.points.length - 1][1])}`).join(", ");
  return html`
    <figure class="chart">
      <figcaption>
        ${lines.map((line) => html`<span key=${line.name}><span class=${`key ${line.kind}`} aria-hidden="true"></span>${line.name}${" "}<span class="numbers">${line.points.length ? told(line.points[line.points.length - 1][1]) : "–"}</span></span>`)}
      </figcaption>
      <div ref=${box}>
        <svg width=${width} height=${HEIGHT} role="img" aria-label=${`${label}. ${latest}`}>
          ${ticks.map((tick) => html`<g key=${tick}><line class="grid" x1=${LEFT} x2=${width - RIGHT} y1=${y(tick)} y2=${y(tick)} /><text x=${LEFT - 8} y=${y(tick) + 4} class="tick end">${told(tick)}</text></g>`)}
          <text x=${LEFT} y=${HEIGHT - 6} class="tick">0</text>
          <text x=${width - RIGHT} y=${HEIGHT - 6} class="tick end">${format.number(right)} ${xLabel}</text>
          ${lines.map((line) => html`<${Series} key=${line.name} line=${line} x=${x} y=${y} />`)}
        </svg>
      </div>
    </figure>`;
}

function Series({ line, x, y }) {
  const known = line.points.filter(([, value]) => Number.isFinite(value));
  const every = Math.ceil(known.length / MOST) || 1;
  const points = known.filter((_, at) => at % every === 0 || at === known.length - 1);
  return html`
    <polyline class=${`curve ${line.kind}`} points=${points.map(([step, value]) => `${x(step).toFixed(1)},${y(value).toFixed(1)}`).join(" ")} />
    ${line.dots && points.map(([step, value]) => html`<circle key=${step} class=${`dot ${line.kind}`} cx=${x(step)} cy=${y(value)} r="3.5" />`)}`;
}

/** Three to five round numbers from 0 to above ``most``. @param {number} most */
export function nice(most) {
  const rough = most / 4;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 2.5, 5, 10].map((one) => one * power).find((one) => one >= rough) ?? rough;
  return Array.from({ length: Math.ceil(most / step - 1e-9) + 1 }, (_, at) => at * step);
}

/** @param {number} value */
const told = (value) => {
  if (value === 0) return "0";
  if (Math.abs(value) < 0.001) return value.toExponential(1);
  return format.number(value, Math.abs(value) < 1 ? 3 : Math.abs(value) < 10 ? 2 : 0);
};

/** @returns {[any, number]} */
function useWidth() {
  const box = useRef(/** @type {HTMLElement | null} */ (null));
  const [width, setWidth] = useState(480);
  useEffect(() => {
    const watch = new ResizeObserver(([entry]) => { if (entry.contentRect.width) setWidth(entry.contentRect.width); });
    if (box.current) watch.observe(box.current);
    return () => watch.disconnect();
  }, []);
  return [box, width];
}
