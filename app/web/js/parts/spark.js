/** The last minutes of one number. */
import { html } from "../ui.js";

const WIDTH = 200;
const HEIGHT = 44;

/** @param {{values: number[], most?: number, kept: number}} props  ``most``: the upper end, when it is known */
export function Spark({ values, most = 0, kept }) {
  const top = Math.max(most, ...values, 1e-9);
  const step = WIDTH / Math.max(1, kept - 1);
  const first = WIDTH - (values.length - 1) * step;
  const points = values.map((value, at) => `${(first + at * step).toFixed(1)},${(HEIGHT - 2 - (value / top) * (HEIGHT - 4)).toFixed(1)}`);
  return html`
    <svg class="spark" viewBox=${`0 0 ${WIDTH} ${HEIGHT}`} preserveAspectRatio="none" aria-hidden="true" focusable="false">
      ${points.length > 1 && html`
        <polygon points=${`${first.toFixed(1)},${HEIGHT} ${points.join(" ")} ${WIDTH},${HEIGHT}`} />
        <polyline points=${points.join(" ")} />`}
    </svg>`;
}
