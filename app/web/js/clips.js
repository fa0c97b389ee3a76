/** The recordings that are asked about: the same under Try and Compare. */
import { soundName } from "./audio/clip.js";
import { createStore } from "./store.js";

/** @typedef {import("./audio/clip.js").Clip} Clip */

export const MOST_CLIPS = 32; // in one request

/**
 * ``before``: what the latest change took away, to be brought back. ``surplus``: how many found no place.
 * @type {{get: () => {list: Clip[], before: Clip[] | null, surplus: number}, set: (next: any) => void, subscribe: (l: () => void) => () => boolean}}
 */
export const clips = createStore({ list: [], before: null, surplus: 0 });

/** New recordings in place of those that were there. @param {Clip[]} list */
export function replaceClips(list) {
  const { list: old } = clips.get();
  clips.set({ list: list.slice(0, MOST_CLIPS), before: old.length ? old : null, surplus: Math.max(0, list.length - MOST_CLIPS) });
}

/** New recordings beside those that were there. @param {Clip[]} more */
export function addClips(more) {
  const list = [...clips.get().list, ...more];
  clips.set({ list: list.slice(0, MOST_CLIPS), before: null, surplus: Math.max(0, list.length - MOST_CLIPS) });
}

/** Recordings of an earlier question. @param {Clip[]} list */
export const showClips = (list) => clips.set({ list, before: null, surplus: 0 });

/** @param {Clip} clip */
export function removeClip(clip) {
  const { list } = clips.get();
  clips.set({ list: list.filter((one) => one.id !== clip.id), before: list, surplus: 0 });
}

/** Exchange what is there for what was there before. */
export function bringBack() {
  const { list, before } = clips.get();
  if (before) clips.set({ list: before, before: list.length ? list : null, surplus: 0 });
}

/** Ask about a part alone. @param {Clip} clip @param {Clip["region"]} region  `null`: about all of it */
export function setRegion(clip, region) {
  const now = clips.get();
  clips.set({ ...now, list: now.list.map((one) => (one.id === clip.id ? { ...one, region } : one)) });
}

/** Names of recordings and parts. @param {{name: string, region?: any}[]} list */
export const namesOf = (list) => list.map(soundName);

/** Whether two lists are the same sound. @param {Clip[]} a @param {Clip[]} b */
export const sameClips = (a, b) => marks(a) === marks(b);
const marks = (/** @type {Clip[]} */ list) => list.map(({ id, region }) => `${id} ${region ? `${region.start} ${region.end}` : ""}`).join("\n");
