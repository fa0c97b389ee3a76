/** A recording that the visitor made or dropped, with what is needed to draw and play it. */

const BARS = 600;
let count = 0;

/**
 * @typedef {object} Clip
 * @property {number} id
 * @property {string} name
 * @property {Blob} blob
 * @property {string} url  of the blob, for playing
 * @property {number | null} seconds  `null`: this browser cannot decode it, the service may
 * @property {Float32Array | null} peaks  0 to 1
 */

/**
 * @param {Blob} blob
 * @param {string} name
 * @returns {Promise<Clip>}
 */
export async function makeClip(blob, name) {
  const clip = { id: ++count, name, blob, url: URL.createObjectURL(blob), seconds: null, peaks: null };
  try {
    const decoder = new OfflineAudioContext(1, 1, 16000);
    const audio = await decoder.decodeAudioData(await blob.arrayBuffer());
    return { ...clip, seconds: audio.duration, peaks: peaksOf(audio.getChannelData(0)) };
  } catch {
    return clip;
  }
}

/** @param {Float32Array} samples */
function peaksOf(samples) {
  const peaks = new Float32Array(Math.min(BARS, samples.length));
  const width = samples.length / peaks.length;
  for (let bar = 0; bar < peaks.length; bar += 1) {
    let peak = 0;
    const end = Math.floor((bar + 1) * width);
    for (let at = Math.floor(bar * width); at < end; at += 1) peak = Math.max(peak, Math.abs(samples[at]));
    peaks[bar] = peak;
  }
  const loudest = Math.max(...peaks, 1e-4);
  return peaks.map((peak) => peak / loudest);
}
