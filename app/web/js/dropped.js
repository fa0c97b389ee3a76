/** What was dropped: files, and all files of dropped folders, each with its path. */

/** @type {WeakMap<File, string>} */
const paths = new WeakMap();

/** A file's path within the folder that was dropped or chosen; its name for a file alone. @param {File} file */
export const pathOf = (file) => paths.get(file) ?? (file.webkitRelativePath || file.name);

/** Whether a file lies in a folder that was dropped or chosen. @param {File} file */
export const isInFolder = (file) => pathOf(file).includes("/");

/** Files that systems put beside others: `.DS_Store`, `__MACOSX/…`. @param {File} file */
const isSystem = (file) => pathOf(file).split("/").some((part) => part.startsWith(".") || part === "__MACOSX");

/**
 * The files of a drop, folders read to their end. Has to be called while the event is handled.
 * @param {DataTransfer} transfer
 * @returns {Promise<File[]>}
 */
export async function filesOf(transfer) {
  const entries = [...transfer.items].map((item) => item.webkitGetAsEntry?.()).filter((entry) => entry);
  if (!entries.some((entry) => entry?.isDirectory)) return [...transfer.files];
  return (await Promise.all(entries.map((entry) => walk(entry)))).flat().filter((file) => !isSystem(file));
}

/** The files of a folder that was chosen in the browser's dialog. @param {FileList | null} list */
export const filesIn = (list) => [...(list ?? [])].filter((file) => !isSystem(file));

/** @param {any} entry @returns {Promise<File[]>} */
async function walk(entry) {
  if (entry.isFile) {
    const file = await new Promise((resolve, reject) => { entry.file(resolve, reject); });
    paths.set(file, entry.fullPath.replace(/^\//, ""));
    return [file];
  }
  const reader = entry.createReader();
  /** @type {File[]} */
  const found = [];
  for (;;) { // a call gives some hundred entries at most
    const some = await new Promise((resolve, reject) => { reader.readEntries(resolve, reject); });
    if (!some.length) return found;
    found.push(...(await Promise.all(some.map(walk))).flat());
  }
}
