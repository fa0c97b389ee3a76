/** Talking to the service: errors become `Problem`s, and a key is asked for when one is wanted. */
import { askForKey, keyNow } from "./key.js";
import { t } from "./i18n.js";
import { wordsOf } from "./problem-words.js";

/** An error in words, as the service tells it (RFC 9457). */
export class Problem extends Error {
  /** @param {{detail: string, code: string, status?: number, problems?: string[], fields?: string[], instance?: string}} told */
  constructor(told) {
    super(told.detail);
    this.code = told.code;
    this.status = told.status ?? 0;
    this.problems = told.problems ?? [];
    this.fields = told.fields ?? [];
    this.instance = told.instance;
  }
}

/** @param {string} path */
export const address = (path) => new URL(path.replace(/^\//, ""), document.baseURI).href;

/** @returns {Record<string, string>} */
const keyed = () => (keyNow() ? { Authorization: `Bearer ${keyNow()}` } : {});

/**
 * A good answer of the service. Throws a Problem, or an AbortError when ``signal`` says so.
 * @param {string} path
 * @param {{method?: string, json?: unknown, form?: FormData, signal?: AbortSignal, headers?: Record<string, string>}} [ask]
 * @returns {Promise<Response>}
 */
export async function call(path, ask = {}) {
  const { json, form, headers, ...rest } = ask;
  for (;;) {
    let response;
    try {
      response = await fetch(address(path), {
        ...rest,
        method: ask.method ?? (json !== undefined || form ? "POST" : "GET"),
        body: json === undefined ? form : JSON.stringify(json),
        headers: { ...headers, ...keyed(), ...(json === undefined ? {} : { "Content-Type": "application/json" }) },
      });
    } catch (error) {
      if (ask.signal?.aborted) throw error;
      throw await unreachable(form);
    }
    if (response.ok) return response;
    const problem = problemOf(response.status, await response.text());
    if (!(await mendedByKey(problem))) throw problem;
  }
}

/**
 * The JSON of a good answer.
 * @param {string} path
 * @param {Parameters<typeof call>[1]} [ask]
 * @returns {Promise<any>}
 */
export const fetchJson = async (path, ask) => (await call(path, ask)).json();

/**
 * Send a form and tell how much has been sent; `fetch` cannot.
 * @param {string} path
 * @param {FormData} form
 * @param {(share: number) => void} onProgress
 * @param {AbortSignal} signal
 * @returns {Promise<any>}
 */
export async function upload(path, form, onProgress, signal) {
  for (;;) {
    const { status, text } = await send(path, form, onProgress, signal);
    if (status >= 200 && status < 300) return JSON.parse(text);
    const problem = problemOf(status, text);
    if (!(await mendedByKey(problem))) throw problem;
  }
}

/** @returns {Promise<{status: number, text: string}>} */
function send(path, form, onProgress, signal) {
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest();
    request.open("POST", address(path));
    for (const [name, value] of Object.entries(keyed())) request.setRequestHeader(name, value);
    request.upload.onprogress = (event) => event.lengthComputable && onProgress(event.loaded / event.total);
    request.onload = () => resolve({ status: request.status, text: request.responseText });
    request.onerror = async () => reject(await unreachable(form));
    request.onabort = () => reject(new DOMException("aborted", "AbortError"));
    signal.addEventListener("abort", () => request.abort(), { once: true });
    request.send(form);
  });
}

/** Why nothing was sent: a file that cannot be read (moved, changed, a folder), else the network. @param {FormData} [form] */
async function unreachable(form) {
  for (const part of form?.values() ?? []) {
    if (!(part instanceof Blob)) continue;
    const readable = await part.slice(0, 1).arrayBuffer().then(() => true, () => false);
    if (!readable) return new Problem({ code: "file", detail: t("error.file", { name: part instanceof File ? part.name : "" }) });
  }
  return new Problem({ code: "network", detail: t("error.network") });
}

/** Whether a key was entered that may do what was refused. @param {Problem} problem */
const mendedByKey = async (problem) =>
  (problem.code === "unauthorized" || (problem.code === "forbidden" && /key/.test(problem.message))) &&
  askForKey(wordsOf(problem).lead);

/** @param {number} status @param {string} text */
function problemOf(status, text) {
  try {
    const told = JSON.parse(text);
    if (typeof told.detail === "string") return new Problem({ status, ...told });
  } catch { /* not the service's own words: a proxy's */ }
  return new Problem({ status, code: "unknown", detail: t("error.unknown", { status }) });
}

/** Whether an error only says that the visitor cancelled. @param {unknown} error */
export const isAbort = (error) => error instanceof DOMException && error.name === "AbortError";
