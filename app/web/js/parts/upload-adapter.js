/** An adapter on its way in: dropped, named, checked by the service; its report, or why it was refused. */
import { adapterIn } from "../adapter-files.js";
import { isAbort, upload } from "../api.js";
import * as format from "../format.js";
import { t } from "../i18n.js";
import { refresh } from "../live.js";
import { ofUpload } from "../problem-words.js";
import { useSuggestedName } from "../suggested-name.js";
import { html, useRef, useState } from "../ui.js";
import { ErrorNote, Field, Progress } from "./basics.js";
import { DropZone } from "./drop-zone.js";
import { Report } from "./report.js";
import { ServedNote } from "./served-note.js";

/** @param {{taken: {name: string, version?: number}[]}} props  adapters that are there, servable or not */
export function UploadAdapter({ taken }) {
  const [files, setFiles] = useState(/** @type {File[]} */ ([]));
  const { name, type, suggest } = useSuggestedName();
  const [share, setShare] = useState(/** @type {number | null} */ (null));
  const [error, setError] = useState(/** @type {any} */ (null));
  const [added, setAdded] = useState(/** @type {any} */ (null));
  const sending = useRef(/** @type {AbortController | null} */ (null));
  const replaced = taken.find((one) => one.name === name);

  const take = (found) => {
    setAdded(null);
    setError(null);
    try {
      const adapter = adapterIn(found);
      setFiles(adapter.files);
      suggest(adapter.from);
    } catch (problem) {
      forget();
      setError(problem);
    }
  };
  const forget = () => { setFiles([]); suggest(""); };
  const send = async (event) => {
    event.preventDefault();
    const form = new FormData();
    form.append("name", name);
    if (replaced) form.append("replace", "true");
    for (const file of files) form.append("file", file, file.name);
    sending.current = new AbortController();
    setError(null);
    setShare(0);
    try {
      setAdded(await upload("/adapters", form, setShare, sending.current.signal));
      forget();
      await refresh();
    } catch (problem) {
      if (!isAbort(problem)) setError(ofUpload(problem, "adapter_file"));
    }
    setShare(null);
  };
  return html`
    <section class="panel upload" aria-label=${t("upload")}>
      <${DropZone} label=${t("upload.drop")} hint=${t("upload.what")} multiple=${true} folders=${true} disabled=${share !== null} onFiles=${take} />
      ${files.length > 0 && html`
        <form class="upload-form" onSubmit=${send}>
          <p class="small muted">${files.filter((file) => file.size).map((file) => `${file.name} (${format.bytes(file.size)})`).join(", ")}</p>
          <div class="line">
            <${Field} label=${t("upload.name")} hint=${replaced && t(replaced.version ? "upload.replaces" : "upload.replaces-broken", { name, version: replaced.version ?? "" })}>
              <input required maxlength="64" pattern="[a-z0-9][a-z0-9._\\-]*" title=${t("upload.rule")} value=${name} onInput=${(event) => type(event.currentTarget.value)} />
            <//>
            <button type="submit" class="primary" disabled=${share !== null}>${t(replaced ? "upload.next" : "upload.go")}</button>
            <button type="button" class="quiet" onClick=${() => (share === null ? forget() : sending.current?.abort())}>${t("cancel")}</button>
          </div>
          ${share !== null && html`<${Progress} label=${t(share < 1 ? "upload.sending" : "upload.checking")} share=${share < 1 ? share : null} />`}
        </form>`}
      <${ErrorNote} error=${error} />
      ${added && html`<${ServedNote} name=${added.name} version=${added.version}><${Report} report=${added.report} /><//>`}
    </section>`;
}
