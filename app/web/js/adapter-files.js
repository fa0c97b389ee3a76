/** Which files of a dropped folder make an adapter. */
import { isInFolder, pathOf } from "./dropped.js";
import { t } from "./i18n.js";

const CONFIGS = ["adapter_config.json", "head.json"]; // every adapter has one of them
const SENT = new Set([...CONFIGS, "adapter_model.safetensors", "head.safetensors", "manifest.json", "README.md"]);
const NAMED = /^(adapter_model|model|pytorch_model)/; // their names tell the server what may be meant

/** @param {File} file */
const folderOf = (file) => pathOf(file).split("/").slice(0, -1).join("/");

/**
 * The files to send, and a name for the adapter. Throws an Error in words for a folder without an adapter, or with several.
 * @param {File[]} files
 * @returns {{files: File[], from: string}}  ``from``: the file or folder that the name is taken from
 */
export function adapterIn(files) {
  if (!files.some(isInFolder)) return { files, from: files.length === 1 ? files[0].name : "" };
  const top = pathOf(files[0]).split("/")[0];
  const folders = [...new Set(files.filter((file) => CONFIGS.includes(file.name)).map(folderOf))].sort();
  const archive = files.length === 1 && /\.(zip|tar|tgz|gz)$/i.test(files[0].name);
  if (archive) return { files, from: files[0].name };
  if (!folders.length) throw new Error(t("upload.folder.none", { name: top }));
  if (folders.length > 1) throw new Error(t("upload.folder.many", { count: folders.length, names: folders.slice(0, 3).join(", ") }));
  const own = files.filter((file) => folderOf(file) === folders[0]);
  const others = own.filter((file) => !SENT.has(file.name) && NAMED.test(file.name)).map((file) => new File([], file.name));
  return { files: [...own.filter((file) => SENT.has(file.name)), ...others], from: folders[0].split("/").pop() ?? top };
}
