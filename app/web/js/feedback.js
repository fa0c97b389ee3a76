/** Verdicts on answers, and the rows that the service keeps of them. */
import { call, fetchJson } from "./api.js";
import { soundName, soundOf } from "./audio/clip.js";

/** @typedef {"right" | "wrong" | "corrected" | "draft"} Kind  ``corrected``: wrong, and it is known what it should have been; ``draft``: nobody has judged it */
/** @typedef {"" | "wrong" | "draft"} Which  rows: all, those where an adapter was wrong, drafts */

/** @param {any} row @returns {Kind} */
export const kindOf = ({ verdict, corrected }) => (verdict === "wrong" && corrected?.trim() ? "corrected" : verdict);

/**
 * Judge an answer. The service forgets answers after an hour: the question is sent once more then.
 * @param {any} answer  as the service gave it
 * @param {{kind: Kind, text: string, consent: boolean}} verdict
 * @param {import("./ask.js").Question} [question]
 * @returns {Promise<any>} the row
 */
export async function judge(answer, { kind, text, consent }, question) {
  const fields = { request_id: answer.id, consent, ...(kind === "corrected" ? { verdict: "wrong", corrected: text.trim() } : { verdict: kind }) };
  try {
    return await fetchJson("/feedback", { json: fields });
  } catch (error) {
    // a conversation or a system message cannot be told anew
    if (error.status !== 404 || !question || question.earlier?.length || question.options.system || answer.audio.length !== question.clips.length) throw error;
    const form = new FormData();
    const told = { ...fields, answer: answer.text, prompt: question.prompt.trim(), adapter: question.adapter };
    for (const [name, value] of Object.entries(told)) if (value !== "") form.append(name, String(value));
    for (const clip of question.clips) form.append("audio", await soundOf(clip), soundName(clip));
    return fetchJson("/feedback", { form });
  }
}

/** Change a row's verdict. @param {string} id @param {{kind: Kind, text: string}} verdict */
export const judgeAgain = (id, { kind, text }) =>
  fetchJson(`/feedback/${id}`, { json: kind === "right" ? { verdict: kind } : { verdict: "wrong", corrected: kind === "corrected" ? text.trim() : "" } });

/** @param {string} id @param {boolean} excluded */
export const exclude = (id, excluded) => fetchJson(`/feedback/${id}`, { json: { excluded } });
/** @param {string} id @param {"auto" | "train" | "held_out"} split  its side in training */
export const setSplit = (id, split) => fetchJson(`/feedback/${id}`, { json: { split } });
/** @param {string} id */
export const forget = (id) => call(`/feedback/${id}`, { method: "DELETE" });

/**
 * Rows, newest first.
 * @param {{by: string, which?: Which, limit: number, offset?: number}} wanted  ``by``: who answered, empty for anyone
 * @param {AbortSignal} signal
 */
export const listed = ({ by, which = "", limit, offset = 0 }, signal) => fetchJson(`/feedback?${new URLSearchParams({
  limit: String(limit), offset: String(offset), ...(by ? { adapter: by } : {}), ...(which ? { verdict: which } : {}), ...(which === "wrong" ? { adapted: "true" } : {}),
})}`, { signal });

/** What can be trained on, as an archive. @param {string} by */
export const exported = async (by) => (await call(`/feedback/export${by ? `?${new URLSearchParams({ adapter: by })}` : ""}`)).blob();

/**
 * Ask about a recording, and keep the answer with it as a draft; the row.
 * @param {File} file
 * @param {{prompt: string, adapter: string}} question  ``prompt``: empty for the adapter's own
 * @param {AbortSignal} signal
 */
export async function draftOf(file, { prompt, adapter }, signal) {
  const asked = { adapter, ...(prompt.trim() ? { prompt: prompt.trim() } : {}) };
  const answer = await fetchJson("/generate", { form: formOf(asked, file), signal });
  const kept = { request_id: answer.id, verdict: "draft", consent: true };
  try {
    return await fetchJson("/feedback", { json: kept, signal });
  } catch (error) {
    if (error.status !== 404) throw error; // a recording beyond the server's memory for answers is sent once more
    return fetchJson("/feedback", { form: formOf({ ...asked, ...kept, answer: answer.text }, file), signal });
  }
}

/** @param {Record<string, unknown>} fields @param {File} file */
function formOf(fields, file) {
  const form = new FormData();
  for (const [name, value] of Object.entries(fields)) form.append(name, String(value));
  form.append("audio", file, file.name);
  return form;
}

/** The recordings of a row. @param {any} row @returns {Promise<Blob[]>} */
export const recordingsOf = ({ id, recordings }) =>
  Promise.all(recordings.map(async (/** @type {any} */ _, /** @type {number} */ index) => (await call(`/feedback/${id}/recording?index=${index}`)).blob()));
