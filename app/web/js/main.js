/** The page: the shell around its views. A view stays as it was left while another is shown. */
import { language, t } from "./i18n.js";
import { keepFresh } from "./live.js";
import { KeyQuestion, Navigation, ServiceError, Status, Tools } from "./parts/shell.js";
import { route } from "./route.js";
import { useStore } from "./store.js";
import { html, render, useEffect, useRef } from "./ui.js";
import { Adapters } from "./views/adapters.js";
import { Compare } from "./views/compare.js";
import { Data } from "./views/data.js";
import { Server } from "./views/server.js";
import { Train } from "./views/train.js";
import { Try } from "./views/try.js";

const VIEWS = { try: Try, compare: Compare, adapters: Adapters, data: Data, train: Train, server: Server };

function App() {
  const { view, query } = useStore(route);
  useStore(language);
  const visited = useRef(new Set());
  const heading = useRef(/** @type {HTMLElement | null} */ (null));
  const moved = useRef(false);
  visited.current.add(view);
  const title = t(`view.${view}`);
  useEffect(() => { document.title = `${title} · Overtone`; }, [title]);
  useEffect(() => {
    if (moved.current) heading.current?.focus(); // a screen reader is told where it has come to
    moved.current = true;
  }, [view]);
  return html`
    <a class="skip" href="#main" onClick=${(event) => { event.preventDefault(); heading.current?.focus(); }}>${t("skip")}</a>
    <header class="side">
      <a class="brand" href="#/try"><img src="web/icon.svg" alt="" width="28" height="28" /><span>Overtone</span></a>
      <${Navigation} view=${view} />
      <div class="side-foot"><${Status} /><${Tools} /></div>
    </header>
    <main id="main">
      <header class="view-head"><h1 ref=${heading} tabindex="-1">${title}</h1><p>${t(`view.${view}.what`)}</p></header>
      <${ServiceError} />
      ${Object.entries(VIEWS).filter(([name]) => visited.current.has(name)).map(([name, View]) => html`
        <div key=${name} hidden=${name !== view} class="view"><${View} query=${name === view ? query : NOTHING} shown=${name === view} /></div>`)}
    </main>
    <${KeyQuestion} />`;
}

const NOTHING = new URLSearchParams();
keepFresh();
render(html`<${App} />`, document.getElementById("app"));
