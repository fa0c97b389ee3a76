/** The API key, kept for this tab only, and the question for it. */
import { createStore } from "./store.js";

const NAME = "overtone.key";
let key = "";
try { key = sessionStorage.getItem(NAME) ?? ""; } catch { /* storage is off: kept in memory */ }

/** What is being asked; `null` while nothing is. */
export const question = createStore(/** @type {null | {reason: string}} */ (null));
/** @type {Promise<boolean> | null} */
let pending = null;
/** @type {(entered: boolean) => void} */
let settle = () => {};

export const keyNow = () => key;

/**
 * Ask the visitor; true once a key was entered. Several requests refused at a time share one question.
 * @param {string} reason
 * @returns {Promise<boolean>}
 */
export function askForKey(reason) {
  if (!pending) {
    pending = new Promise((resolve) => { settle = resolve; });
    question.set({ reason });
  }
  return pending;
}

/** @param {string | null} entered `null`: the visitor closed the question */
export function answerKey(entered) {
  if (entered !== null) {
    key = entered;
    try { sessionStorage.setItem(NAME, key); } catch { /* kept in memory */ }
  }
  question.set(null);
  pending = null;
  settle(entered !== null);
}
