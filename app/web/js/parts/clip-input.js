/** Recordings for a question: from the microphone, dropped, or the sample that comes with the page. */
import { address } from "../api.js";
import { makeClip } from "../audio/clip.js";
import { MOST_CLIPS, addClips, bringBack, clips, namesOf, removeClip, replaceClips, setRegion } from "../clips.js";
import * as format from "../format.js";
import { t } from "../i18n.js";
import { forgetMicrophoneError, microphone, stopRecording } from "../microphone.js";
import { useStore } from "../store.js";
import { html, useEffect, useState } from "../ui.js";
import { ErrorNote } from "./basics.js";
import { DropZone } from "./drop-zone.js";
import { Microphone } from "./microphone.js";
import { Player } from "./player.js";

/** @param {{shown: boolean}} props  ``shown``: whether the view is; the microphone stops with it */
export function ClipInput({ shown }) {
  const { list, before, surplus } = useStore(clips);
  const { recording, error } = useStore(microphone);
  const [joining, setJoining] = useState(false);
  const [failed, setFailed] = useState("");
  useEffect(() => (shown ? () => { stopRecording(); forgetMicrophoneError(); } : undefined), [shown]);
  useEffect(() => { setJoining(false); setFailed(""); }, [list.map((clip) => clip.id).join()]); // joining is meant once

  const add = async (/** @type {{blob: Blob, name: string, sample?: boolean}[]} */ found) => {
    try {
      const made = await Promise.all(found.map(async ({ blob, name, sample }) => ({ ...(await makeClip(blob, name)), sample })));
      if (joining) addClips(made);
      else replaceClips(made);
    } catch { // a folder, or a file that may not be read
      setFailed(t("clips.unreadable", { names: found.map(({ name }) => name).join(", ") }));
    }
  };
  const taken = (/** @type {File[]} */ files) => add(files.map((file) => ({ blob: file, name: file.name })));
  return html`
    <div class="clip-input">
      <div class="sources">
        ${shown && html`<${Microphone} joining=${joining} />`}
        <${DropZone} label=${t("clips.drop")} accept="audio/*,video/mp4,video/webm,.flac,.opus,.m4a" multiple=${true} onFiles=${taken} />
      </div>
      <${ErrorNote} error=${failed ? { message: failed } : error} />
      ${list.map((clip) => html`
        <${Player} key=${clip.id} clip=${clip} canSave=${true} onRemove=${() => removeClip(clip)} onRegion=${(region) => setRegion(clip, region)} />`)}
      ${surplus > 0 && html`<p class="note bad" role="alert">${t("clips.surplus", { most: MOST_CLIPS, count: surplus })}</p>`}
      ${list.length === 0 && !recording && html`
        <p class="hint">${t("clips.none")} <button type="button" class="link" onClick=${() => addSample(add)}>${t("clips.sample")}</button></p>`}
      ${list.length > 0 && html`
        <div class="clip-line">
          <label class="check"><input type="checkbox" checked=${joining} disabled=${recording !== null} onChange=${(event) => setJoining(event.currentTarget.checked)} /><span>${t("clips.another")}</span></label>
          ${list.length > 1 && html`<span class="hint">${t("clips.together", { count: format.number(list.length) })}</span>`}
        </div>`}
      <p class="hint" role="status">${before && html`${t("clips.before")} <button type="button" class="link small" onClick=${bringBack}>${t("clips.bring-back", { names: namesOf(before).join(", ") })}</button>`}</p>
    </div>`;
}

/** @param {(found: any[]) => Promise<void>} add */
const addSample = async (add) => add([{ blob: await (await fetch(address("web/demo.flac"))).blob(), name: "demo.flac", sample: true }]);
