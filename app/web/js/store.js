/** Values that several parts of the page share. */
import { useEffect, useState } from "./ui.js";

/**
 * @template T
 * @param {T} value
 */
export function createStore(value) {
  /** @type {Set<() => void>} */
  const listeners = new Set();
  return {
    /** @returns {T} */
    get: () => value,
    /** @param {T} next */
    set(next) {
      value = next;
      for (const listener of [...listeners]) listener();
    },
    /** @param {() => void} listener */
    subscribe(listener) {
      listeners.add(listener);
      return () => listeners.delete(listener);
    },
  };
}

/**
 * The value now, and again whenever it changes.
 * @template T
 * @param {{get: () => T, subscribe: (listener: () => void) => () => boolean}} store
 * @returns {T}
 */
export function useStore(store) {
  const [, again] = useState(0);
  const seen = store.get();
  useEffect(() => {
    const unsubscribe = store.subscribe(() => again((count) => count + 1));
    if (store.get() !== seen) again((count) => count + 1); // it changed before this effect ran
    return () => { unsubscribe(); };
  }, [store]);
  return store.get();
}

/**
 * What the visitor chose last time; nothing where the browser keeps nothing.
 * @param {string} name
 * @returns {string | null}
 */
export function remembered(name) {
  try { return localStorage.getItem(`overtone.${name}`); } catch { return null; }
}

/** @param {string} name @param {string | null} value */
export function remember(name, value) {
  try {
    if (value === null) localStorage.removeItem(`overtone.${name}`);
    else localStorage.setItem(`overtone.${name}`, value);
  } catch { /* storage is off */ }
}

/** A name for what this browser makes; `crypto.randomUUID` is missing on plain http. */
export const randomId = () => [...crypto.getRandomValues(new Uint8Array(12))].map((byte) => byte.toString(16).padStart(2, "0")).join("");
