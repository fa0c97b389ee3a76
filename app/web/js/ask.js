/** Questions about recordings: as forms, as answers that stream, and as code to copy. */
import { Problem, address, call, fetchJson } from "./api.js";
import { t } from "./i18n.js";
import { keyNow } from "./key.js";
import { eventsOf } from "./sse.js";

/**
 * @typedef {object} Question
 * @property {import("./audio/clip.js").Clip[]} clips
 * @property {string} prompt
 * @property {Record<string, string>} options  further fields, as texts; empty ones are not sent
 * @property {string} adapter  as requests write it; for comparisons a comma-separated list
 */

/** @param {Question} question @returns {[string, string][]} */
const fieldsOf = ({ prompt, options }) =>
  /** @type {[string, string][]} */ ([["prompt", prompt.trim()], ...Object.entries(options)]).filter(([, value]) => value !== "");

/** @param {Question} question @param {string} name  of the adapter's field */
function formOf(question, name) {
  const form = new FormData();
  for (const clip of question.clips) form.append("audio", clip.blob, clip.name);
  for (const [field, value] of fieldsOf(question)) form.append(field, value);
  form.append(name, question.adapter);
  form.append("stream", "true");
  return form;
}

/**
 * Ask, and hand on tokens as they come; the whole answer in the end.
 * @param {Question} question
 * @param {(text: string) => void} onText
 * @param {AbortSignal} signal
 */
export async function ask(question, onText, signal) {
  const response = await call("/generate", { form: formOf(question, "adapter"), signal });
  for await (const { kind, data } of eventsOf(response)) {
    if (kind === "token") onText(data.text);
    else if (kind === "error") throw new Problem(data);
    else if (kind === "done") return data;
  }
  throw new Problem({ code: "network", detail: t("error.cut") });
}

/**
 * Ask several adapters at once.
 * @param {Question} question
 * @param {(index: number, kind: string, data: any) => void} onEvent
 * @param {AbortSignal} signal
 */
export async function compare(question, onEvent, signal) {
  const response = await call("/compare", { form: formOf(question, "adapters"), signal });
  for await (const { kind, data } of eventsOf(response)) onEvent(data.index, kind, data);
}

/** Ask a classification head. @param {Question} question @param {AbortSignal} signal */
export async function classify(question, signal) {
  const form = new FormData();
  for (const clip of question.clips) form.append("audio", clip.blob, clip.name);
  form.append("adapter", question.adapter);
  return fetchJson("/classify", { form, signal });
}

/** A word of the shell. @param {string} word */
const quoted = (word) => (/^[\w@%+=:,./-]+$/.test(word) ? word : `'${word.replaceAll("'", "'\\''")}'`);

/** The question as a curl command. The key is named, not told. @param {Question} question @param {boolean} labels */
export function asCurl(question, labels) {
  const lines = [`curl ${address(labels ? "/classify" : "/generate")}`];
  if (keyNow()) lines.push('-H "Authorization: Bearer $OVERTONE_KEY"');
  for (const clip of question.clips) lines.push(`-F ${quoted(`audio=@${clip.name}`)}`);
  if (!labels) for (const [field, value] of fieldsOf(question)) lines.push(`-F ${quoted(`${field}=${value}`)}`);
  lines.push(`-F ${quoted(`adapter=${question.adapter}`)}`);
  return lines.join(" \\\n  ");
}

/** The same in Python. @param {Question} question @param {boolean} labels */
export function asPython(question, labels) {
  const text = (/** @type {string} */ value) => JSON.stringify(value); // also a Python string
  const data = [...(labels ? [] : fieldsOf(question)), ["adapter", question.adapter]];
  const files = question.clips.map((clip) => `("audio", open(${text(clip.name)}, "rb"))`);
  return [
    ...(keyNow() ? ["import os", ""] : []),
    "import httpx", "",
    "answer = httpx.post(",
    `    ${text(address(labels ? "/classify" : "/generate"))},`,
    `    data={${data.map(([field, value]) => `${text(field)}: ${text(value)}`).join(", ")}},`,
    ...(files.length ? [`    files=[${files.join(", ")}],`] : []),
    ...(keyNow() ? ['    headers={"Authorization": f"Bearer {os.environ[\'OVERTONE_KEY\']}"},'] : []),
    "    timeout=300,",
    ").raise_for_status().json()",
    labels ? 'print(answer["labels"])' : 'print(answer["text"])',
  ].join("\n");
}
