/** A name for an adapter, taken from its files until the visitor types another. */
import { useRef, useState } from "./ui.js";

/** A name that the service takes, from a file's. @param {string} file */
export const nameFrom = (file) =>
  file.toLowerCase().replace(/\.(zip|tar\.gz|tgz|tar|jsonl|csv|tsv|json|parquet|safetensors)$/, "").replace(/[^a-z0-9._-]+/g, "-").replace(/^[^a-z0-9]+/, "").slice(0, 64);

/**
 * What the visitor typed stays for the same files alone: other files are another adapter.
 * @returns {{name: string, type: (name: string) => void, suggest: (file: string) => void}}
 */
export function useSuggestedName() {
  const [name, setName] = useState("");
  const last = useRef("");
  return {
    name,
    type: setName,
    suggest(file) {
      const same = file !== "" && file === last.current;
      last.current = file;
      if (!same) setName(nameFrom(file));
    },
  };
}
