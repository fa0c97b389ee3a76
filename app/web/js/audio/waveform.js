/** Bars on a canvas, in the colours of the page. */

const BAR = 3; // CSS pixels: two of bar, one of gap

/**
 * @param {HTMLCanvasElement} canvas
 * @param {ArrayLike<number>} peaks  0 to 1
 * @param {number} played  share that has been played
 */
export function drawPeaks(canvas, peaks, played) {
  const { context, width, height, style } = prepare(canvas);
  const bars = Math.floor(width / BAR);
  for (let bar = 0; bar < bars; bar += 1) {
    const from = Math.floor((bar * peaks.length) / bars);
    const to = Math.max(from + 1, Math.floor(((bar + 1) * peaks.length) / bars));
    let peak = 0;
    for (let at = from; at < to; at += 1) peak = Math.max(peak, peaks[at]);
    context.fillStyle = style.getPropertyValue(bar / bars < played ? "--accent" : "--wave");
    column(context, bar, peak, height);
  }
}

/**
 * The newest levels at the right end.
 * @param {HTMLCanvasElement} canvas
 * @param {number[]} levels
 */
export function drawLevels(canvas, levels) {
  const { context, width, height, style } = prepare(canvas);
  const bars = Math.floor(width / BAR);
  const seen = levels.slice(-bars);
  context.fillStyle = style.getPropertyValue("--accent");
  seen.forEach((level, at) => column(context, bars - seen.length + at, level * level, height));
}

/** @param {CanvasRenderingContext2D} context */
function column(context, bar, peak, height) {
  const tall = Math.max(2, peak * (height - 4));
  context.beginPath();
  context.roundRect(bar * BAR, (height - tall) / 2, BAR - 1, tall, 1);
  context.fill();
}

/** A canvas as sharp as the screen, wiped. @param {HTMLCanvasElement} canvas */
function prepare(canvas) {
  const scale = window.devicePixelRatio || 1;
  const { clientWidth: width, clientHeight: height } = canvas;
  if (canvas.width !== Math.round(width * scale) || canvas.height !== Math.round(height * scale)) {
    canvas.width = Math.round(width * scale);
    canvas.height = Math.round(height * scale);
  }
  const context = /** @type {CanvasRenderingContext2D} */ (canvas.getContext("2d"));
  context.setTransform(scale, 0, 0, scale, 0, 0);
  context.clearRect(0, 0, width, height);
  return { context, width, height, style: getComputedStyle(canvas) };
}
