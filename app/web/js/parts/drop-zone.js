/** A place to drop files or a folder on, which is a button for everybody else. */
import { filesIn, filesOf, isInFolder, pathOf } from "../dropped.js";
import { t } from "../i18n.js";
import { html, useRef, useState } from "../ui.js";
import { Icon } from "./icons.js";

/**
 * @param {{label: string, hint?: string, accept?: string, multiple?: boolean, folders?: boolean, disabled?: boolean, onFiles: (files: File[]) => void}} props
 *   ``folders``: a folder may be dropped or chosen; ``onFiles`` then gets all files in it
 */
export function DropZone({ label, hint, accept, multiple = false, folders = false, disabled = false, onFiles }) {
  const [over, setOver] = useState(false);
  const [refused, setRefused] = useState("");
  const input = useRef(/** @type {HTMLInputElement | null} */ (null));
  const take = (/** @type {File[]} */ files) => {
    if (disabled) return;
    const inside = files.find(isInFolder);
    if (inside && !folders) setRefused(t("drop.folder", { name: pathOf(inside).split("/")[0] }));
    else if (files.length > 1 && !multiple) setRefused(t("drop.one", { count: files.length }));
    else {
      setRefused("");
      if (files.length) onFiles(files);
    }
  };
  const drag = (event, inside) => { event.preventDefault(); setOver(inside && !disabled); };
  const drop = (event) => {
    drag(event, false);
    if (!event.dataTransfer) return;
    filesOf(event.dataTransfer).then(
      (files) => (files.length ? take(files) : setRefused(t("drop.empty"))),
      () => setRefused(t("drop.unreadable")),
    );
  };
  const chosen = (event) => { take(filesIn(event.currentTarget.files)); event.currentTarget.value = ""; };
  const chooseFolder = () => {
    const picker = document.createElement("input");
    Object.assign(picker, { type: "file", webkitdirectory: true, onchange: () => take(filesIn(picker.files)) });
    picker.click();
  };
  return html`
    <div class=${over ? "drop over" : "drop"}
      onDragOver=${(event) => drag(event, true)} onDragLeave=${(event) => drag(event, false)} onDrop=${drop}>
      <button type="button" disabled=${disabled} onClick=${() => input.current?.click()}>
        <${Icon} name="upload" /><span>${label}</span>
      </button>
      ${folders && html`<button type="button" class="link" disabled=${disabled} onClick=${chooseFolder}>${t("drop.choose-folder")}</button>`}
      ${hint && html`<p class="hint">${hint}</p>`}
      ${refused && html`<p class="hint bad" role="alert">${refused}</p>`}
      <input ref=${input} type="file" hidden aria-hidden="true" tabindex="-1" accept=${accept} multiple=${multiple} onChange=${chosen} />
    </div>`;
}
