/** Try's form outlives a reload, follows links, and knows when its adapter is gone. */
import { address } from "./api.js";
import { makeClip } from "./audio/clip.js";
import { clips, replaceClips, showClips } from "./clips.js";
import { keepDraft, load } from "./history.js";
import { live, refresh } from "./live.js";
import { BASE } from "./parts/adapter-choice.js";
import { useStore } from "./store.js";
import { useEffect, useRef, useState } from "./ui.js";

const PAUSE_MS = 250; // after the latest change, before the form is kept

/**
 * Keep the form, and take it up again at the start.
 * @param {any} form  with `clips`
 * @param {(draft: any) => void} onDraft
 * @returns {boolean} whether what was kept has been read
 */
export function useDraft(form, onDraft) {
  const [loaded, setLoaded] = useState(false);
  useEffect(() => {
    load().then((draft) => {
      const isUntouched = !clips.get().list.length && !form.prompt;
      if (draft && isUntouched) { showClips(draft.clips); onDraft(draft); }
      setLoaded(true);
    });
  }, []);
  useEffect(() => {
    if (!loaded) return undefined;
    const timer = setTimeout(() => keepDraft(form), PAUSE_MS);
    return () => clearTimeout(timer);
  }, [loaded, form.prompt, form.options, form.chosen, form.shown, form.clips]);
  return loaded;
}

/**
 * Follow each link once.
 * @param {URLSearchParams | null} query  `null`: not now
 * @param {(query: URLSearchParams) => void} onLink
 */
export function useLink(query, onLink) {
  const text = query?.toString() ?? null;
  useEffect(() => {
    if (!text || !query) return;
    if (query.get("recording") === "demo.flac") sample().then((clip) => replaceClips([clip]));
    onLink(query);
  }, [text]);
}

const sample = async () => ({ ...(await makeClip(await (await fetch(address("web/demo.flac"))).blob(), "demo.flac")), sample: true });

/**
 * Turn to what is still there once an adapter is no longer served.
 * @param {import("./parts/adapter-choice.js").Chosen} chosen
 * @param {(chosen: import("./parts/adapter-choice.js").Chosen) => void} onChange
 * @returns {string} the names that are gone, until something else is chosen
 */
export function useServed(chosen, onChange) {
  const { adapters, loaded, error } = useStore(live);
  const [gone, setGone] = useState("");
  const turned = useRef(/** @type {any} */ (null));
  const there = new Set(adapters.filter((one) => one.status === "ready").map((one) => one.name));
  const missing = namesIn(chosen).filter((name) => !there.has(name)).join(", ");
  useEffect(() => {
    if (!loaded || error || !missing) return undefined;
    let current = true;
    refresh().then(() => { // a new one may not be on the list yet
      const known = new Set(live.get().adapters.filter((one) => one.status === "ready").map((one) => one.name));
      const lost = namesIn(chosen).filter((name) => !known.has(name));
      if (!current || live.get().error || !lost.length) return;
      const parts = Object.fromEntries(Object.entries(chosen.parts).filter(([name]) => known.has(name)));
      turned.current = chosen.kind === "mix" && Object.keys(parts).length ? { ...chosen, parts } : BASE;
      setGone(lost.join(", "));
      onChange(turned.current);
    });
    return () => { current = false; };
  }, [loaded, error, missing]);
  useEffect(() => { if (gone && chosen !== turned.current) setGone(""); }, [chosen]);
  return gone;
}

/** @param {import("./parts/adapter-choice.js").Chosen} chosen */
const namesIn = ({ kind, name, parts }) => (kind === "one" ? [name] : kind === "mix" ? Object.keys(parts) : []);
