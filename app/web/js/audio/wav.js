/** Samples as a WAV file. */

const HEADER = 44; // bytes

/**
 * 16-bit PCM.
 * @param {Float32Array[]} channels  of one length, -1 to 1
 * @param {number} rate  Hz
 * @returns {Blob}
 */
export function wavOf(channels, rate) {
  const frame = 2 * channels.length;
  const size = frame * channels[0].length;
  const view = new DataView(new ArrayBuffer(HEADER + size));
  const text = (/** @type {number} */ at, /** @type {string} */ letters) => [...letters].forEach((letter, i) => view.setUint8(at + i, letter.charCodeAt(0)));
  text(0, "RIFF");
  view.setUint32(4, HEADER - 8 + size, true);
  text(8, "WAVEfmt ");
  view.setUint32(16, 16, true); // bytes of this block
  view.setUint16(20, 1, true); // PCM
  view.setUint16(22, channels.length, true);
  view.setUint32(24, rate, true);
  view.setUint32(28, rate * frame, true);
  view.setUint16(32, frame, true);
  view.setUint16(34, 16, true); // bits of a sample
  text(36, "data");
  view.setUint32(40, size, true);
  channels.forEach((samples, channel) => {
    for (let at = 0; at < samples.length; at += 1) {
      const level = Math.min(1, Math.max(-1, samples[at]));
      view.setInt16(HEADER + at * frame + 2 * channel, Math.round(level * 32767), true);
    }
  });
  return new Blob([view], { type: "audio/wav" });
}
