/** A place to drop files on, which is a button for everybody else. */
import { html, useRef, useState } from "../ui.js";
import { Icon } from "./icons.js";

/**
 * @param {{label: string, hint?: string, accept?: string, multiple?: boolean, disabled?: boolean, onFiles: (files: File[]) => void}} props
 */
export function DropZone({ label, hint, accept, multiple = false, disabled = false, onFiles }) {
  const [over, setOver] = useState(false);
  const input = useRef(/** @type {HTMLInputElement | null} */ (null));
  const take = (/** @type {FileList | null | undefined} */ list) => {
    const files = [...(list ?? [])];
    if (files.length && !disabled) onFiles(multiple ? files : files.slice(0, 1));
  };
  const drag = (event, inside) => { event.preventDefault(); setOver(inside && !disabled); };
  return html`
    <div class=${over ? "drop over" : "drop"}
      onDragOver=${(event) => drag(event, true)} onDragLeave=${(event) => drag(event, false)}
      onDrop=${(event) => { drag(event, false); take(event.dataTransfer?.files); }}>
      <button type="button" disabled=${disabled} onClick=${() => input.current?.click()}>
        <${Icon} name="upload" /><span>${label}</span>
      </button>
      ${hint && html`<p class="hint">${hint}</p>`}
      <input ref=${input} type="file" hidden aria-hidden="true" tabindex="-1" accept=${accept} multiple=${multiple}
        onChange=${(event) => { take(event.currentTarget.files); event.currentTarget.value = ""; }} />
    </div>`;
}
