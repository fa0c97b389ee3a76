/** Which view is shown: `#/adapters`, `#/try?adapter=nato`. */
import { createStore } from "./store.js";

export const VIEWS = ["try", "compare", "adapters", "data", "train", "server"];

function read() {
  const [name, query] = location.hash.replace(/^#\/?/, "").split("?");
  return { view: VIEWS.includes(name) ? name : "try", query: new URLSearchParams(query ?? "") };
}

export const route = createStore(read());
addEventListener("hashchange", () => route.set(read()));
