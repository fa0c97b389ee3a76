/** An adapter on its way in: dropped, named, checked by the service; its report, or why it was refused. */
import { isAbort, upload } from "../api.js";
import * as format from "../format.js";
import { t } from "../i18n.js";
import { refresh } from "../live.js";
import { html, useRef, useState } from "../ui.js";
import { ErrorNote, Field, Progress } from "./basics.js";
import { DropZone } from "./drop-zone.js";
import { Report } from "./report.js";

/** A name that the service takes, from a file's. @param {string} file */
export const nameFrom = (file) =>
  file.toLowerCase().replace(/\.(zip|tar\.gz|tgz|jsonl|csv|json|safetensors)$/, "").replace(/[^a-z0-9._-]+/g, "-").replace(/^[^a-z0-9]+/, "").slice(0, 64);

/** @param {{taken: string[]}} props */
export function UploadAdapter({ taken }) {
  const [files, setFiles] = useState(/** @type {File[]} */ ([]));
  const [name, setName] = useState("");
  const [share, setShare] = useState(/** @type {number | null} */ (null));
  const [error, setError] = useState(/** @type {any} */ (null));
  const [added, setAdded] = useState(/** @type {any} */ (null));
  const sending = useRef(/** @type {AbortController | null} */ (null));

  const take = (found) => {
    setFiles(found);
    setAdded(null);
    setError(null);
    if (!name) setName(found.length === 1 ? nameFrom(found[0].name) : "");
  };
  const forget = () => { setFiles([]); setName(""); };
  const send = async (event) => {
    event.preventDefault();
    const form = new FormData();
    form.append("name", name);
    if (taken.includes(name)) form.append("replace", "true");
    for (const file of files) form.append("file", file, file.name);
    sending.current = new AbortController();
    setError(null);
    setShare(0);
    try {
      setAdded(await upload("/adapters", form, setShare, sending.current.signal));
      forget();
      await refresh();
    } catch (problem) {
      if (!isAbort(problem)) setError(problem);
    }
    setShare(null);
  };
  return html`
    <section class="panel upload" aria-label=${t("upload")}>
      <${DropZone} label=${t("upload.drop")} hint=${t("upload.what")} multiple=${true} disabled=${share !== null} onFiles=${take} />
      ${files.length > 0 && html`
        <form class="upload-form" onSubmit=${send}>
          <p class="small muted">${files.map((file) => `${file.name} (${format.bytes(file.size)})`).join(", ")}</p>
          <div class="line">
            <${Field} label=${t("upload.name")}>
              <input required maxlength="64" pattern="[a-z0-9][a-z0-9._\\-]*" title=${t("upload.rule")} value=${name} onInput=${(event) => setName(event.currentTarget.value)} />
            <//>
            <button type="submit" class="primary" disabled=${share !== null}>${t(taken.includes(name) ? "upload.next" : "upload.go")}</button>
            <button type="button" class="quiet" onClick=${() => (share === null ? forget() : sending.current?.abort())}>${t("cancel")}</button>
          </div>
          ${share !== null && html`<${Progress} label=${t(share < 1 ? "upload.sending" : "upload.checking")} share=${share < 1 ? share : null} />`}
        </form>`}
      <${ErrorNote} error=${error} />
      ${added && html`
        <div class="note good" role="status">
          <p><strong>${t("upload.done", { name: added.name, version: added.version })}</strong> <a href=${`#/try?adapter=${added.name}`}>${t("try.it")}</a></p>
          <${Report} report=${added.report} />
        </div>`}
    </section>`;
}
