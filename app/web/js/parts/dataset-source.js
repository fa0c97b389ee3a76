/** Where the data comes from: an upload, a folder of the server, or what an earlier job has. */
import { fetchJson } from "../api.js";
import { isInFolder, pathOf } from "../dropped.js";
import * as format from "../format.js";
import { t } from "../i18n.js";
import { tarOf } from "../tar.js";
import { html, useEffect, useState } from "../ui.js";
import { Field } from "./basics.js";
import { DropZone } from "./drop-zone.js";

/** @typedef {import("../jobs.js").Source} Source */

/** A path's end, which tells data sets apart. @param {string} path */
const tail = (path) => path.split("/").slice(-2).join("/");

/** @param {Source | null} source @returns {string} */
export const sourceName = (source) =>
  (!source ? "" : source.kind === "upload" ? source.file.name : source.kind === "server" ? tail(source.path) : source.id);

/** One file as it is; several, or those of a folder, as one archive. @param {File[]} files */
function packed(files) {
  if (files.length === 1 && !isInFolder(files[0])) return files[0];
  const folder = isInFolder(files[0]) ? pathOf(files[0]).split("/")[0] : files[0].name.replace(/\.[^.]*$/, "");
  return tarOf(files, `${folder}.tar`);
}

/** Data sets on the server. @param {boolean} shown @returns {any[]} */
export function useKnown(shown) {
  const [known, setKnown] = useState(/** @type {any[]} */ ([]));
  useEffect(() => {
    if (shown) fetchJson("/training/datasets").then(({ datasets }) => setKnown(datasets)).catch(() => setKnown([]));
  }, [shown]);
  return known;
}

/**
 * One of the data sets that the server has. ``none``: the words for no choice.
 * @param {{source: Source | null, known: any[], jobs: any[], none: string, disabled?: boolean, onChange: (source: Source | null) => void}} props
 */
export function KnownSource({ source, known, jobs, none, disabled = false, onChange }) {
  const choose = (/** @type {any} */ event) => {
    const [kind, ...rest] = event.currentTarget.value.split(":");
    const value = rest.join(":");
    onChange(kind === "server" ? { kind, path: value } : kind === "job" ? { kind, id: value } : null);
  };
  const chosen = source?.kind === "server" ? `server:${source.path}` : source?.kind === "job" ? `job:${source.id}` : "";
  return html`
    <select value=${chosen} disabled=${disabled} onChange=${choose}>
      <option value="">${none}</option>
      ${known.length > 0 && html`<optgroup label=${t("data.server")}>${known.map(({ path }) => html`<option value=${`server:${path}`} title=${path}>${tail(path)}</option>`)}</optgroup>`}
      ${jobs.length > 0 && html`<optgroup label=${t("data.job")}>${jobs.map((job) => html`<option value=${`job:${job.id}`}>${job.name}${job.options.check ? ` · ${t("job.check")}` : ""} · ${format.date(job.created)}</option>`)}</optgroup>`}
    </select>`;
}

/** @param {{source: Source | null, jobs: any[], shown: boolean, disabled: boolean, onChange: (source: Source | null) => void}} props */
export function DatasetSource({ source, jobs, shown, disabled, onChange }) {
  const known = useKnown(shown);
  return html`
    <${DropZone} label=${t("data.drop")} hint=${t("data.what")} multiple=${true} folders=${true} accept=".zip,.gz,.tgz,.tar,.jsonl,.json,.csv,.tsv,.parquet,.arrow" disabled=${disabled}
      onFiles=${(files) => onChange({ kind: "upload", file: packed(files), count: files.length })} />
    ${known.length + jobs.length > 0 && html`
      <${Field} label=${t("data.or")}>
        <${KnownSource} source=${source} known=${known} jobs=${jobs} none=${t("data.choose")} disabled=${disabled} onChange=${onChange} />
      <//>`}
    ${source && html`<p class="chosen-data" role="status"><strong>${sourceName(source)}</strong>${source.kind === "upload" && html` <span class="muted numbers">${source.count > 1 ? `${t("data.files", { count: format.number(source.count) })} · ` : ""}${format.bytes(source.file.size)}</span>`}</p>`}`;
}
