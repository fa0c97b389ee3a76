/** The microphone: one for the whole page; what it records is kept, however the recording ends. */
import { makeClip } from "./audio/clip.js";
import { record } from "./audio/recorder.js";
import { addClips, replaceClips } from "./clips.js";
import * as format from "./format.js";
import { t } from "./i18n.js";
import { createStore } from "./store.js";

/** @type {{recording: any, opening: boolean, error: any}} */
const SILENT = { recording: null, opening: false, error: null };
export const microphone = createStore(SILENT);
let wanted = false;
/** @type {Promise<void>} */
let taken = Promise.resolve();

/** @param {boolean} joining  the take comes beside the recordings that are there, else in their place */
export async function startRecording(joining) {
  if (microphone.get().recording || microphone.get().opening) return;
  wanted = true;
  microphone.set({ ...SILENT, opening: true });
  try {
    const recording = await record();
    const late = !wanted; // the view was left while the browser asked for permission
    taken = recording.take.then(async (take) => {
      microphone.set(SILENT);
      if (!late) await keep(take, joining);
    });
    microphone.set({ ...SILENT, recording });
    if (late) recording.stop();
  } catch (error) {
    microphone.set({ ...SILENT, error });
  }
}

/** @param {{blob: Blob, extension: string}} take @param {boolean} joining */
async function keep({ blob, extension }, joining) {
  const clip = await makeClip(blob, `${t("mic.name")} ${format.clock(Date.now()).replaceAll(":", ".")}.${extension}`);
  if (joining) addClips([clip]);
  else replaceClips([clip]);
}

/** Stop; resolves once the take is among the recordings. */
export async function stopRecording() {
  wanted = false;
  microphone.get().recording?.stop();
  await taken;
}

export const forgetMicrophoneError = () => { if (microphone.get().error) microphone.set({ ...microphone.get(), error: null }); };
