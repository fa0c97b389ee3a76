/** Server: load, queue, memory, latency by adapter, and what has happened. */
import { fetchJson } from "../api.js";
import * as format from "../format.js";
import { known, t } from "../i18n.js";
import { Badge, Empty, ErrorNote } from "../parts/basics.js";
import { Spark } from "../parts/spark.js";
import { html, useEffect, useRef, useState } from "../ui.js";

const PERIOD_MS = 1000;
const KEPT = 120; // samples
const EVENTS = 500;

/** @typedef {{running: number, waiting: number, rate: number, memory: number}} Sample */

/** @param {{shown: boolean}} props */
export function Server({ shown }) {
  const [status, setStatus] = useState(/** @type {any} */ (null));
  const [error, setError] = useState(/** @type {any} */ (null));
  const samples = useRef(/** @type {Sample[]} */ ([]));
  const events = useRef(/** @type {any[]} */ ([]));
  const before = useRef(/** @type {any} */ (null));
  const look = async () => {
    const last = events.current[0]?.number ?? 0;
    const now = await fetchJson(`/status?after=${last}`);
    if (before.current && now.uptime_seconds < before.current.uptime_seconds) { // a new process: its story begins anew
      events.current = [];
      before.current = null;
      return;
    }
    samples.current = [...samples.current, sample(before.current, now)].slice(-KEPT);
    events.current = [...now.events.reverse(), ...events.current].slice(0, EVENTS);
    before.current = now;
    setStatus(now);
    setError(null);
  };
  useEffect(() => {
    if (!shown) return undefined;
    let stopped = false;
    let timer = 0;
    const again = async () => {
      if (!document.hidden) await look().catch(setError);
      if (!stopped) timer = window.setTimeout(again, PERIOD_MS);
    };
    again();
    return () => { stopped = true; clearTimeout(timer); };
  }, [shown]);
  if (!status) return html`<${ErrorNote} error=${error} />`;
  return html`
    <${ErrorNote} error=${error} />
    <${Tiles} status=${status} samples=${samples.current} />
    <${Latency} rows=${status.latency} />
    <div class="two even">
      <${About} status=${status} />
      <${Log} events=${events.current} />
    </div>`;
}

/** @param {any} before @param {any} now @returns {Sample} */
function sample(before, now) {
  const seconds = before ? now.uptime_seconds - before.uptime_seconds : 0;
  const rate = seconds > 0 ? (now.load.generated_tokens - before.load.generated_tokens) / seconds : 0;
  return { running: now.load.running + now.load.listening, waiting: now.load.waiting, rate, memory: (now.memory.device?.used ?? now.memory.process) };
}

function Tiles({ status, samples }) {
  const { load, memory, slots, kv_tokens: kv } = status;
  const now = samples[samples.length - 1];
  const device = memory.device;
  return html`
    <div class="tiles">
      <${Tile} name=${t("server.running")} value=${format.number(now.running)} more=${t("of", { total: format.number(load.max_batch) })} values=${samples.map((one) => one.running)} most=${4} />
      <${Tile} name=${t("server.waiting")} value=${format.number(now.waiting)} more=${t("of", { total: format.number(load.max_queue) })} values=${samples.map((one) => one.waiting)} most=${4} />
      <${Tile} name=${t("server.rate")} value=${format.number(now.rate)} more=${t("server.tokens", { count: format.number(load.generated_tokens) })} values=${samples.map((one) => one.rate)} most=${10} />
      <${Tile} name=${t(device ? "server.gpu" : "server.memory")} value=${format.bytes(now.memory)} more=${device ? t("of", { total: format.bytes(device.total) }) : ""} values=${samples.map((one) => one.memory)} most=${device?.total ?? now.memory * 1.25} />
      <${Whole} name=${t("server.slots")} used=${slots.used} total=${slots.total} />
      <${Whole} name=${t("server.kv")} used=${kv.used} total=${kv.total} />
    </div>`;
}

const Tile = ({ name, value, more, values, most }) => html`
  <section class="panel tile" aria-label=${name}>
    <h2>${name}</h2>
    <p class="big numbers">${value} <span class="small muted">${more}</span></p>
    <${Spark} values=${values} most=${most} kept=${KEPT} />
  </section>`;

const Whole = ({ name, used, total }) => html`
  <section class="panel tile" aria-label=${name}>
    <h2>${name}</h2>
    <p class="big numbers">${format.number(used)} <span class="small muted">${t("of", { total: format.number(total) })}</span></p>
    <span class="meter" aria-hidden="true"><span style=${{ "--share": total ? used / total : 0 }}></span></span>
  </section>`;

function Latency({ rows }) {
  const cell = (figure) => (figure ? `${format.milliseconds(figure.p50)} / ${format.milliseconds(figure.p95)}` : "–");
  return html`
    <section class="panel" aria-labelledby="latency-title">
      <h2 id="latency-title">${t("latency")}</h2>
      ${rows.length === 0 ? html`<${Empty} title=${t("latency.none")}>${t("latency.none.how")}<//>` : html`
        <div class="scroll" tabindex="0" role="group" aria-labelledby="latency-title"><table>
          <thead><tr><th scope="col">${t("latency.adapter")}</th><th scope="col">${t("latency.requests")}</th><th scope="col">${t("latency.ttft")}</th><th scope="col">${t("latency.token")}</th><th scope="col">${t("latency.total")}</th></tr></thead>
          <tbody>${rows.map((row) => html`
            <tr key=${row.adapter}><th scope="row">${row.adapter === "base" ? t("choice.base") : row.adapter}</th><td class="numbers">${format.number(row.requests)}</td>
              <td class="numbers">${cell(row.ttft)}</td><td class="numbers">${cell(row.per_token)}</td><td class="numbers">${cell(row.total)}</td></tr>`)}</tbody>
        </table></div>
        <p class="hint">${t("latency.what")}</p>`}
    </section>`;
}

function About({ status }) {
  const { load, memory, jobs } = status;
  const waiting = Object.entries(jobs).filter(([, count]) => count > 0);
  const facts = [
    [t("about.model"), status.model],
    [t("about.device"), `${status.device_name ?? status.device} · ${status.dtype}`],
    [t("about.uptime"), format.duration(status.uptime_seconds)],
    [t("about.requests"), t("about.requests.how", { finished: format.number(load.finished), failed: format.number(load.failed), rejected: format.number(load.rejected) })],
    [t("about.weights"), format.bytes(memory.weights)],
    [t("about.kv"), format.bytes(memory.kv)],
    [t("about.jobs"), waiting.length ? waiting.map(([state, count]) => `${t(`job.${state}`)} ${count}`).join(", ") : t("report.no-warnings")],
    [t("about.fingerprint"), html`<span class="mono">${status.fingerprint.slice(0, 16)}</span>`],
  ];
  return html`
    <section class="panel" aria-label=${t("about")}>
      <h2>${t("about")}</h2>
      <dl class="pairs">${facts.map(([name, value]) => html`<div><dt>${name}</dt><dd class="numbers">${value}</dd></div>`)}</dl>
    </section>`;
}

function Log({ events }) {
  return html`
    <section class="panel" aria-labelledby="log-title">
      <h2 id="log-title">${t("log")}</h2>
      ${events.length === 0 ? html`<${Empty} title=${t("log.none")}>${t("log.none.how")}<//>` : html`
        <ol class="log" tabindex="0" aria-labelledby="log-title">${events.map((entry) => html`
          <li key=${entry.number}><time class="numbers muted" datetime=${entry.time}>${format.clock(entry.time)}</time>
            <${Badge} kind=${["broken", "failed", "rejected"].includes(entry.topic) ? "bad" : ""}>${t(`topic.${entry.topic}`)}<//>
            <span>${words(entry)}</span></li>`)}</ol>`}
    </section>`;
}

/** An entry of the journal as a sentence. */
function words({ topic, subject, before, after }) {
  const how = before === undefined || before === null ? "new" : after === undefined || after === null ? "gone" : "changed";
  const state = topic === "job" && after ? known(`job.${after}`, after) : after;
  return t(`log.${topic}.${how}`, { subject, before: before ?? "", after: state ?? "", count: Number(after) - Number(before) });
}
