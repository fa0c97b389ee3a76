/** A recording that the visitor made or dropped, with what is needed to draw, play and cut it. */
import { randomId } from "../store.js";
import { wavOf } from "./wav.js";

const BARS = 600;
const RATE = 16000; // Hz: at this rate recordings are drawn and cut; the models take the same

/**
 * @typedef {object} Clip
 * @property {string} id
 * @property {string} name
 * @property {Blob} blob
 * @property {string} url  of the blob, for playing
 * @property {number | null} seconds  `null`: this browser cannot decode it, the service may
 * @property {Float32Array | null} peaks  0 to 1
 * @property {{start: number, end: number} | null} region  in seconds: the part that is asked about; `null`: all
 */

/**
 * @param {Blob} file
 * @param {string} name
 * @returns {Promise<Clip>}
 */
export async function makeClip(file, name) {
  const bytes = await file.arrayBuffer();
  const blob = new Blob([bytes], { type: file.type }); // a copy: the file on the disk may change or go
  const clip = { id: randomId(), name, blob, url: URL.createObjectURL(blob), seconds: null, peaks: null, region: null };
  try {
    const audio = await decoded(bytes);
    return { ...clip, seconds: audio.duration, peaks: peaksOf(audio.getChannelData(0)) };
  } catch {
    return clip;
  }
}

/**
 * What is sent and saved: the recording as it is, or its region as a WAV file.
 * @param {Clip} clip
 * @returns {Promise<Blob>}
 */
export async function soundOf({ blob, region }) {
  if (!region) return blob;
  const audio = await decoded(await blob.arrayBuffer());
  const [from, to] = [region.start, region.end].map((second) => Math.round(second * audio.sampleRate));
  const channels = Array.from({ length: audio.numberOfChannels }, (_, at) => audio.getChannelData(at).subarray(from, to));
  return wavOf(channels, audio.sampleRate);
}

/** The file's name for that. @param {{name: string, region?: {start: number, end: number} | null}} clip */
export function soundName({ name, region }) {
  if (!region) return name;
  return `${name.replace(/\.\w{1,5}$/, "")} ${region.start.toFixed(2)}-${region.end.toFixed(2)} s.wav`;
}

/** @param {ArrayBuffer} bytes  are used up */
const decoded = (bytes) => new OfflineAudioContext(1, 1, RATE).decodeAudioData(bytes);

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
