/** What the gate found in the data, with the clips it objects to, to be heard. */
import * as format from "../format.js";
import { known, t } from "../i18n.js";
import { reasonIn } from "../problem-words.js";
import { html } from "../ui.js";
import { Badge } from "./basics.js";
import { FetchedPlayer } from "./fetched-player.js";

const HEARD = 5; // recordings of a finding

/**
 * @param {{job: any, allowed?: string[], onAllow?: (codes: string[]) => void}} props
 */
export function GateReport({ job, allowed, onAllow }) {
  const { ok, report } = job.told.gate;
  const findings = report.findings ?? [];
  return html`
    <section class="gate" aria-label=${t("gate")}>
      <h3>${t("gate")} <${Badge} kind=${ok ? "good" : "bad"}>${t(ok ? "gate.ok" : "gate.refused")}<//></h3>
      <p class="small muted numbers">${t("gate.summary", {
        rows: format.number(report.rows ?? 0), held: format.number(report.validation_rows ?? 0),
        clips: format.number(report.clips ?? 0), length: format.duration(report.seconds ?? 0),
      })}</p>
      ${facts(report).map((line) => html`<p class="small muted">${line}</p>`)}
      ${(report.remarks ?? []).map((/** @type {string} */ line) => { const { words, lang } = reasonIn(line); return html`<p class="small muted" lang=${lang}>${words}</p>`; })}
      ${findings.length === 0 && html`<p class="hint">${t("gate.clean")}</p>`}
      <ul class="findings">${findings.map((finding) => html`
        <${Finding} key=${finding.code} finding=${finding} job=${job} allowed=${allowed} onAllow=${onAllow} />`)}</ul>
    </section>`;
}

/** How splits were used, how layouts were understood, and which fields mean nothing, as lines. */
function facts(report) {
  const splits = (report.splits ?? []).map(({ name, rows, use }) =>
    t(`gate.split.${use}`, { name: name ?? t("gate.split.none"), rows: format.number(rows) }));
  const named = (report.splits ?? []).some(({ name }) => name === "validation" || name === "test");
  const idle = report.idle_fields ?? [];
  return [
    ...(named ? [t("gate.splits", { splits: splits.join(" · ") })] : []),
    ...(idle.length ? [t("gate.idle", { fields: idle.join(", ") })] : []),
  ];
}

function Finding({ finding, job, allowed, onAllow }) {
  const { code, severity, count, message, examples, recordings = [], final, values = {} } = finding;
  const shown = Object.fromEntries(Object.entries(values).map(([name, value]) => [name, typeof value === "number" ? format.number(value) : value]));
  const what = known(`gate.what.${code}`, message, shown);
  const advice = known(`gate.do.${code}.${severity}`, "", shown) || known(`gate.do.${code}`, "", shown);
  const [first] = examples;
  return html`
    <li class="finding">
      <p><${Badge} kind=${severity === "error" ? "bad" : "warn"}>${t(`gate.${severity}`)}<//> <strong>${known(`gate.code.${code}`, code)}</strong></p>
      <p><span class="numbers">${format.number(count)}</span> ${what} ${advice}</p>
      ${examples.length > 0 && html`<p class="small muted examples">${examples.join(" · ")}${count > examples.length && first ? ` · ${t("gate.more", { count: format.number(count - examples.length) })}` : ""}</p>`}
      <div class="offenders">${recordings.slice(0, HEARD).map((name) => html`<${FetchedPlayer} key=${name} path=${`/training/jobs/${job.id}/recording?name=${encodeURIComponent(name)}`} name=${name} />`)}</div>
      ${severity === "error" && (final
        ? html`<p class="hint">${t("gate.final")}</p>`
        : onAllow && html`
          <label class="check"><input type="checkbox" checked=${allowed.includes(code)}
            onChange=${(event) => onAllow(event.currentTarget.checked ? [...allowed, code] : allowed.filter((one) => one !== code))} />
            <span>${t("gate.allow")}</span></label>`)}
    </li>`;
}
