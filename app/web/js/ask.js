/** Questions about recordings: as forms, as answers that stream, and as code to copy. */
import { Problem, address, call, fetchJson } from "./api.js";
import { soundName, soundOf } from "./audio/clip.js";
import { t } from "./i18n.js";
import { keyNow } from "./key.js";
import { eventsOf } from "./sse.js";

/**
 * @typedef {object} Question
 * @property {import("./audio/clip.js").Clip[]} clips
 * @property {string} prompt
 * @property {Record<string, string>} options  further fields, as texts; empty ones are not sent
 * @property {string} adapter  as requests write it; for comparisons a comma-separated list
 * @property {Turn[]} [earlier]  turns before this one, about the same recordings
 */

/** @typedef {{prompt: string, text: string}} Turn  what was asked, and the answer */

/**
 * The fields of a question besides its recordings and adapters. Turns go as `messages`, in place of prompt and system.
 * @param {Question} question
 * @returns {[string, string][]}
 */
function fieldsOf({ clips, prompt, options, earlier = [] }) {
  const { system = "", ...others } = options;
  const asked = earlier.length
    ? [["messages", JSON.stringify(messagesOf(clips.length, [...earlier, { prompt: prompt.trim(), text: "" }], system.trim()))]]
    : [["prompt", prompt.trim()], ["system", system]];
  return /** @type {[string, string][]} */ ([...asked, ...Object.entries(others)]).filter(([, value]) => value !== "");
}

/** @param {number} recordings @param {Turn[]} turns  of which the last is to be answered @param {string} system */
function messagesOf(recordings, turns, system) {
  const heard = Array.from({ length: recordings }, (_, index) => ({ type: "audio", index }));
  const messages = turns.flatMap(({ prompt, text }, at) => [
    { role: "user", content: at === 0 && recordings ? [...heard, { type: "text", text: prompt }] : prompt },
    { role: "assistant", content: text },
  ]);
  return [...(system ? [{ role: "system", content: system }] : []), ...messages.slice(0, -1)];
}

/** @param {FormData} form @param {Question["clips"]} clips */
async function addRecordings(form, clips) {
  for (const clip of clips) form.append("audio", await soundOf(clip), soundName(clip));
}

/** @param {Question} question @param {string} name  of the adapter's field */
async function formOf(question, name) {
  const form = new FormData();
  await addRecordings(form, question.clips);
  for (const [field, value] of fieldsOf(question)) form.append(field, value);
  form.append(name, question.adapter);
  form.append("stream", "true");
  return form;
}

const cutOff = () => new Problem({ code: "network", detail: t("error.cut") });

/**
 * The events of an answer. Throws a Problem where the connection breaks off.
 * @param {string} path
 * @param {FormData} form
 * @param {AbortSignal} signal
 */
async function* answerTo(path, form, signal) {
  const response = await call(path, { form, signal });
  try {
    yield* eventsOf(response);
  } catch (error) {
    throw signal.aborted || error instanceof Problem ? error : cutOff();
  }
}

/**
 * Ask, and hand on tokens as they come; the whole answer in the end.
 * @param {Question} question
 * @param {(text: string) => void} onText
 * @param {AbortSignal} signal
 */
export async function ask(question, onText, signal) {
  for await (const { kind, data } of answerTo("/generate", await formOf(question, "adapter"), signal)) {
    if (kind === "token") onText(data.text);
    else if (kind === "error") throw new Problem(data);
    else if (kind === "done") return data;
  }
  throw cutOff();
}

/**
 * Ask several adapters at once.
 * @param {Question} question
 * @param {number} count  of adapters
 * @param {(index: number, kind: string, data: any) => void} onEvent
 * @param {AbortSignal} signal
 */
export async function compare(question, count, onEvent, signal) {
  let open = count;
  for await (const { kind, data } of answerTo("/compare", await formOf(question, "adapters"), signal)) {
    if (kind !== "token") open -= 1;
    onEvent(data.index, kind, data);
  }
  if (open > 0) throw cutOff();
}

/** Ask a classification head. @param {Question} question @param {AbortSignal} signal */
export async function classify(question, signal) {
  const form = new FormData();
  await addRecordings(form, question.clips);
  form.append("adapter", question.adapter);
  return fetchJson("/classify", { form, signal });
}

/** A word of the shell. @param {string} word */
const quoted = (word) => (/^[\w@%+=:,./-]+$/.test(word) ? word : `'${word.replaceAll("'", "'\\''")}'`);

/** Names with curl's own marks stand in quotes. @param {string} name */
const curlFile = (name) => (/[;,"\\]/.test(name) ? `"${name.replace(/["\\]/g, "\\$&")}"` : name);

/** The question as a curl command. The key is named, not told. @param {Question} question @param {boolean} labels */
export function asCurl(question, labels) {
  const lines = [`curl ${address(labels ? "/classify" : "/generate")}`];
  if (keyNow()) lines.push('-H "Authorization: Bearer $OVERTONE_KEY"');
  for (const clip of question.clips) lines.push(`-F ${quoted(`audio=@${curlFile(soundName(clip))}`)}`);
  // a string, since -F reads files for values that begin with @ or <
  if (!labels) for (const [field, value] of fieldsOf(question)) lines.push(`--form-string ${quoted(`${field}=${value}`)}`);
  lines.push(`-F ${quoted(`adapter=${question.adapter}`)}`);
  return lines.join(" \\\n  ");
}

/** The same in Python. @param {Question} question @param {boolean} labels */
export function asPython(question, labels) {
  const text = (/** @type {string} */ value) => JSON.stringify(value); // also a Python string
  const data = [...(labels ? [] : fieldsOf(question)), ["adapter", question.adapter]];
  const files = question.clips.map((clip) => `("audio", open(${text(soundName(clip))}, "rb"))`);
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
    `print(answer[${text(labels ? (question.clips.length > 1 ? "results" : "labels") : "text")}])`,
  ].join("\n");
}
