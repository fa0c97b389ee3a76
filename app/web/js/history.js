/** Questions and answers, with their recordings and options: kept in this browser until they are cleared. */
import { transact } from "./database.js";
import { createStore, randomId } from "./store.js";

/** @typedef {import("./parts/answer-panel.js").Asked} Asked */

export const MOST_ASKED = 50;
const MOST_BYTES = 256e6; // of their recordings
const MOST_DRAFTS = 8; // one for each tab

/** ``kept``: whether the browser keeps it. @type {{get: () => {asked: Asked[], kept: boolean}, set: (next: any) => void, subscribe: (l: () => void) => () => boolean}} */
export const history = createStore({ asked: [], kept: true });

/** A new question. @param {Asked} one */
export function remember(one) {
  set([one, ...history.get().asked].slice(0, MOST_ASKED));
  return keep(one);
}

/** @param {string} id @param {(one: Asked) => Partial<Asked>} facts */
export function change(id, facts) {
  set(history.get().asked.map((one) => (one.id === id ? { ...one, ...facts(one) } : one)));
}

/** Keep a question as it is now, at its end. @param {string} id */
export function keepById(id) {
  const one = history.get().asked.find((other) => other.id === id);
  return one ? keep(one) : Promise.resolve();
}

/** Forget everything but what is being answered. */
export async function clear() {
  set(history.get().asked.filter((one) => one.state === "running"));
  await guarded(() => transact("readwrite", async ({ asked, clips, drafts }) => { await asked.clear(); await clips.clear(); await drafts.clear(); }));
}

/** What is on the form: for this tab, until it is closed. @param {{clips: any[], [field: string]: any}} form */
export const keepDraft = (form) => guarded(() => transact("readwrite", async (stores) => {
  await putClips(stores, form.clips);
  await stores.drafts.put({ ...form, clips: form.clips.map(reference), id: tab(), time: Date.now() });
  await prune(stores);
}));

/**
 * Read what was kept.
 * @returns {Promise<any>} this tab's draft, if there is one
 */
export async function load() {
  const found = await guarded(() => transact("readonly", async ({ asked, clips, drafts }) => {
    const stored = new Map((await clips.all()).map((clip) => [clip.id, clip]));
    return { asked: (await asked.all()).map((one) => restored(one, stored)), draft: withClips(await drafts.get(tab()), stored) };
  }));
  if (!found) return null;
  const here = history.get().asked;
  const ids = new Set(here.map((one) => one.id));
  set([...here, ...found.asked.filter((one) => !ids.has(one.id)).sort((a, b) => b.time - a.time)].slice(0, MOST_ASKED));
  return found.draft;
}

const set = (/** @type {Asked[]} */ asked) => history.set({ ...history.get(), asked });

/** @param {Asked} one */
const keep = (one) => guarded(() => transact("readwrite", async (stores) => {
  await putClips(stores, one.question.clips);
  const error = one.error && { message: one.error.message, code: one.error.code, problems: one.error.problems, instance: one.error.instance };
  await stores.asked.put({ ...one, error, question: { ...one.question, clips: one.question.clips.map(reference) } });
  await prune(stores);
}));

/** Errors of the store change nothing but the words under the history. @template T @param {() => Promise<T>} work */
async function guarded(work) {
  try {
    const result = await work();
    if (!history.get().kept) history.set({ ...history.get(), kept: true });
    return result;
  } catch {
    if (history.get().kept) history.set({ ...history.get(), kept: false });
    return undefined;
  }
}

/** @param {any} clip */
const reference = ({ id, region, blob }) => ({ id, region, size: blob.size });

async function putClips(stores, list) {
  const there = new Set(await stores.clips.ids());
  for (const { id, name, blob, seconds, peaks, sample } of list) if (!there.has(id)) await stores.clips.put({ id, name, blob, seconds, peaks, sample });
}

/** The oldest questions go first, and recordings that nothing refers to any more. */
async function prune({ asked, clips, drafts }) {
  const latest = (/** @type {any[]} */ all) => all.sort((a, b) => b.time - a.time);
  const used = new Set();
  const tabs = latest(await drafts.all());
  for (const one of tabs.splice(MOST_DRAFTS)) await drafts.remove(one.id);
  for (const one of tabs) for (const { id } of one.clips) used.add(id);
  let bytes = 0;
  let count = 0;
  for (const one of latest(await asked.all())) {
    const fresh = one.question.clips.filter(({ id }) => !used.has(id));
    bytes += fresh.reduce((sum, { size }) => sum + size, 0);
    count += 1;
    if (count > 1 && (count > MOST_ASKED || bytes > MOST_BYTES)) await asked.remove(one.id);
    else for (const { id } of fresh) used.add(id);
  }
  for (const id of await clips.ids()) if (!used.has(id)) await clips.remove(id);
}

/** @param {any} one @param {Map<string, any>} stored */
function restored(one, stored) {
  const state = one.state === "running" ? "stopped" : one.state; // the page was closed meanwhile
  return { ...one, state, question: withClips(one.question, stored) };
}

/** @param {any} kept @param {Map<string, any>} stored */
function withClips(kept, stored) {
  if (!kept) return null;
  const clips = kept.clips.filter(({ id }) => stored.has(id)).map(({ id, region }) => {
    const clip = stored.get(id);
    return { ...clip, region, url: (clip.url ??= URL.createObjectURL(clip.blob)) };
  });
  return { ...kept, clips };
}

/** This tab's name, for as long as it lives. */
function tab() {
  const NAME = "overtone.tab";
  try {
    const known = sessionStorage.getItem(NAME) ?? randomId();
    sessionStorage.setItem(NAME, known);
    return known;
  } catch {
    return "tab";
  }
}
