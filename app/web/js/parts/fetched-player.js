/** A recording kept by the service, fetched when its button is pressed. */
import { call } from "../api.js";
import { makeClip } from "../audio/clip.js";
import { t } from "../i18n.js";
import { html, useState } from "../ui.js";
import { ErrorNote } from "./basics.js";
import { Icon } from "./icons.js";
import { Player } from "./player.js";

/** @param {{path: string, name: string}} props */
export function FetchedPlayer({ path, name }) {
  const [clip, setClip] = useState(/** @type {any} */ (null));
  const [error, setError] = useState(/** @type {any} */ (null));
  const hear = async () => {
    try {
      setClip(await makeClip(await (await call(path)).blob(), name));
    } catch (problem) { setError(problem); }
  };
  if (clip) return html`<${Player} clip=${clip} />`;
  return html`
    <button type="button" class="quiet small" onClick=${hear}><${Icon} name="play" />${t("gate.hear", { name })}</button>
    <${ErrorNote} error=${error} />`;
}
