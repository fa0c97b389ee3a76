/** The microphone. */
import { Problem } from "../api.js";
import { t } from "../i18n.js";

const KINDS = ["audio/webm;codecs=opus", "audio/mp4", "audio/ogg;codecs=opus"];
const FLOOR_DB = 60; // the meter's lower end, below full scale

/**
 * @typedef {object} Recording
 * @property {() => number} level  0 to 1, now
 * @property {() => void} stop
 * @property {Promise<{blob: Blob, extension: string}>} take  once it has stopped, by itself too: the device may be unplugged
 */

/**
 * Begin to record. Throws a Problem that says what to do.
 * @returns {Promise<Recording>}
 */
export async function record() {
  if (!navigator.mediaDevices?.getUserMedia) throw new Problem({ code: "microphone", detail: t("mic.insecure") });
  let stream;
  try {
    // as it is: the model was not trained on what a telephone's filters leave
    const audio = { echoCancellation: false, noiseSuppression: false, autoGainControl: false };
    stream = await navigator.mediaDevices.getUserMedia({ audio });
  } catch (error) {
    const name = error instanceof DOMException ? error.name : "";
    const key = name === "NotFoundError" ? "mic.none" : name === "NotAllowedError" ? "mic.denied" : "mic.failed";
    throw new Problem({ code: "microphone", detail: t(key) });
  }
  const mimeType = KINDS.find((kind) => MediaRecorder.isTypeSupported(kind));
  const recorder = new MediaRecorder(stream, mimeType ? { mimeType } : {});
  /** @type {Blob[]} */
  const parts = [];
  recorder.ondataavailable = (event) => parts.push(event.data);
  const meter = levelOf(stream);
  const take = new Promise((resolve) => {
    recorder.onstop = () => {
      for (const track of stream.getTracks()) track.stop();
      meter.close();
      const type = recorder.mimeType.split(";")[0];
      resolve({ blob: new Blob(parts, { type }), extension: type.split("/")[1] || "webm" });
    };
  });
  recorder.start(250);
  return { level: meter.level, stop: () => { if (recorder.state !== "inactive") recorder.stop(); }, take };
}

/** @param {MediaStream} stream */
function levelOf(stream) {
  const context = new AudioContext();
  const analyser = new AnalyserNode(context, { fftSize: 1024 });
  context.createMediaStreamSource(stream).connect(analyser);
  const samples = new Float32Array(analyser.fftSize);
  return {
    level() {
      analyser.getFloatTimeDomainData(samples);
      const peak = samples.reduce((most, sample) => Math.max(most, Math.abs(sample)), 1e-6);
      return Math.min(1, Math.max(0, 1 + (20 * Math.log10(peak)) / FLOOR_DB));
    },
    close: () => context.close(),
  };
}
