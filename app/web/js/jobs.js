/** Training jobs: asked for, watched, ended. */
import { call, fetchJson, upload } from "./api.js";
import { eventsOf } from "./sse.js";
import { useEffect, useRef, useState } from "./ui.js";

const REDRAW_MS = 150; // a fast run tells hundreds of steps a second
const AGAIN_MS = 1500; // before a stream that broke off is taken up

/** @typedef {{kind: "upload", file: File} | {kind: "server", path: string} | {kind: "job", id: string} | {kind: "feedback", adapter: string, beside?: Source | null}} Source  ``adapter``: whose answers, empty for anyone's; ``beside``: more rows */

/**
 * Ask for a job.
 * @param {Source} source
 * @param {Record<string, any>} options  of the job; empty ones are left to the trainer
 * @param {(share: number) => void} onProgress  of an upload
 * @param {AbortSignal} signal
 * @returns {Promise<any>} the job
 */
export function submit(source, options, onProgress, signal) {
  const given = Object.fromEntries(Object.entries(options).filter(([, value]) => value !== "" && value?.length !== 0));
  if (source.kind !== "upload") {
    return fetchJson("/training/jobs", { json: { ...given, ...placeOf(source) }, signal });
  }
  const form = new FormData();
  for (const [name, value] of Object.entries(given)) form.append(name, String(value));
  form.append("file", source.file, source.file.name);
  return upload("/training/jobs", form, onProgress, signal);
}

/** Where rows are that the server has. @param {Source} source @returns {Record<string, unknown>} */
function placeOf(source) {
  if (source.kind === "server") return { dataset: source.path };
  if (source.kind === "job") return { from_job: source.id };
  return source.kind === "feedback" ? { from_feedback: source.adapter || true, ...(source.beside ? placeOf(source.beside) : {}) } : {};
}

/** @param {string} id */
export const cancel = (id) => call(`/training/jobs/${id}`, { method: "DELETE" });
/** @param {string} id */
export const purge = (id) => call(`/training/jobs/${id}?purge=true`, { method: "DELETE" });
/** @param {string} id */
export const resume = (id) => call(`/training/jobs/${id}/resume`, { method: "POST" });
/** Whether nothing happens to it any more. @param {any} job */
export const isOver = (job) => !["queued", "running"].includes(job.state);

/**
 * @typedef {object} Watched
 * @property {any} job
 * @property {any[]} steps  events
 * @property {any[]} evaluations  events
 * @property {any} error
 */

/**
 * A job as it goes on; ``round`` begins anew, for one that was resumed.
 * @param {string | null} id
 * @param {number} round
 * @returns {Watched}
 */
export function useJob(id, round = 0) {
  const [, again] = useState(0);
  const watched = useRef(/** @type {Watched} */ (nothing()));
  useEffect(() => {
    watched.current = nothing();
    again((count) => count + 1);
    if (!id) return undefined;
    const stop = new AbortController();
    let due = 0;
    const redraw = () => { due ||= window.setTimeout(() => { due = 0; again((count) => count + 1); }, REDRAW_MS); };
    watch(id, watched.current, redraw, stop.signal);
    return () => { stop.abort(); clearTimeout(due); };
  }, [id, round]);
  return watched.current;
}

/**
 * Several jobs as they go on, by id.
 * @param {string[]} ids
 * @returns {Map<string, Watched>}
 */
export function useJobs(ids) {
  const [, again] = useState(0);
  const all = useRef(/** @type {Map<string, Watched & {stop: AbortController}>} */ (new Map()));
  const key = ids.join();
  useEffect(() => {
    for (const [id, { stop }] of all.current) if (!ids.includes(id)) { stop.abort(); all.current.delete(id); }
    let due = 0;
    const redraw = () => { due ||= window.setTimeout(() => { due = 0; again((count) => count + 1); }, REDRAW_MS); };
    for (const id of ids) {
      if (all.current.has(id)) continue;
      const one = { ...nothing(), stop: new AbortController() };
      all.current.set(id, one);
      watch(id, one, redraw, one.stop.signal);
    }
  }, [key]);
  useEffect(() => () => { for (const { stop } of all.current.values()) stop.abort(); }, []);
  return all.current;
}

/** @returns {Watched} */
const nothing = () => ({ job: null, steps: [], evaluations: [], error: null });

/** Follow a job until it is over, through breaks. @param {Watched} watched */
async function watch(id, watched, redraw, signal) {
  let last = 0;
  while (!signal.aborted) {
    try {
      watched.job = await fetchJson(`/training/jobs/${id}`, { signal });
      redraw();
      const response = await call(`/training/jobs/${id}/events`, { signal, headers: last ? { "Last-Event-ID": String(last) } : {} });
      for await (const { kind, data, id: number } of eventsOf(response)) {
        last = number ?? last;
        watched.error = null;
        take(watched, kind, data);
        redraw();
        if (kind === "end") return;
      }
    } catch (error) {
      if (signal.aborted) return;
      watched.error = error;
      redraw();
      if (error.status && error.status !== 503) return;
    }
    await new Promise((resolve) => { setTimeout(resolve, AGAIN_MS); });
  }
}

/** What an event of the trainer changes. @param {Watched} watched */
function take(watched, kind, data) {
  const { job } = watched;
  const told = { ...job.told };
  if (kind === "end") watched.job = data;
  else if (kind === "gate") watched.job = { ...job, state: "running", told: { ...told, gate: data } };
  else if (kind === "exam") watched.job = { ...job, told: { ...told, exam: data } };
  else if (kind === "checked") watched.job = { ...job, told: { ...told, estimate: data.estimate } };
  else if (kind === "start") {
    watched.steps = []; // a resumed run tells its steps anew from its checkpoint on
    watched.evaluations = [];
    watched.job = { ...job, state: "running", told: { ...told, exam: null, started: data } };
  } else if (kind === "step") {
    watched.steps.push(data);
    watched.job = { ...job, told: { ...told, progress: data } };
  } else if (kind === "eval") watched.evaluations.push(data);
}
