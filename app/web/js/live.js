/** What all views show of the service: its adapters, and whether it is ready. */
import { Problem, fetchJson } from "./api.js";
import { createStore } from "./store.js";

const PERIOD_MS = 5000;

/**
 * @typedef {object} Live
 * @property {any[]} adapters
 * @property {{name: string, versions: number[]}[]} removed  deleted ones that can be brought back
 * @property {string | null} active
 * @property {any | null} readiness
 * @property {any} error  a Problem: why the service cannot be asked
 * @property {boolean} loaded
 */

/** @type {{get: () => Live, set: (next: Live) => void, subscribe: (l: () => void) => () => boolean}} */
export const live = createStore({ adapters: [], removed: [], active: null, readiness: null, error: null, loaded: false });

/** Ask again, now. */
export async function refresh() {
  try {
    const readiness = await fetchJson("/ready");
    const { adapters, removed = [], active } = await fetchJson("/adapters");
    live.set({ adapters, removed, active, readiness, error: null, loaded: true });
  } catch (error) {
    const problem = error instanceof Error ? error : new Problem({ code: "unknown", detail: String(error) });
    live.set({ ...live.get(), readiness: null, error: problem, loaded: true });
  }
}

/** Ask now and then while somebody looks. */
export function keepFresh() {
  let asking = false;
  const again = async () => {
    // who has closed the question for a key is not asked again and again
    if (asking || document.hidden || live.get().error?.code === "unauthorized") return;
    asking = true;
    await refresh();
    asking = false;
  };
  again();
  setInterval(again, PERIOD_MS);
  document.addEventListener("visibilitychange", again);
}

/** Adapters that say words. @param {any[]} adapters */
export const speakers = (adapters) => adapters.filter((one) => one.status === "ready" && one.report.serving !== "classify");

/** Adapters that name classes. @param {any[]} adapters */
export const heads = (adapters) => adapters.filter((one) => one.status === "ready" && one.report.serving === "classify");
