/** Verdicts on answers, and the rows that the service keeps of them. */
import { call, fetchJson } from "./api.js";
import { soundName, soundOf } from "./audio/clip.js";

/** @typedef {"right" | "wrong" | "corrected"} Kind  ``corrected``: wrong, and it is known what it should have been */

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
/** @param {string} id */
export const forget = (id) => call(`/feedback/${id}`, { method: "DELETE" });

/**
 * Rows, newest first.
 * @param {{by: string, wrong?: boolean, limit: number, offset?: number}} wanted  ``by``: who answered, empty for anyone; ``wrong``: only where an adapter was
 * @param {AbortSignal} signal
 */
export const listed = ({ by, wrong = false, limit, offset = 0 }, signal) => fetchJson(`/feedback?${new URLSearchParams({
  limit: String(limit), offset: String(offset), ...(by ? { adapter: by } : {}), ...(wrong ? { verdict: "wrong", adapted: "true" } : {}),
})}`, { signal });

/** What can be trained on, as an archive. @param {string} by */
export const exported = async (by) => (await call(`/feedback/export${by ? `?${new URLSearchParams({ adapter: by })}` : ""}`)).blob();
