/** What the gate found in the data, with the clips it objects to, to be heard. */
import { call } from "../api.js";
import { makeClip } from "../audio/clip.js";
import * as format from "../format.js";
import { known, t } from "../i18n.js";
import { html, useState } from "../ui.js";
import { Badge, ErrorNote } from "./basics.js";
import { Icon } from "./icons.js";
import { Player } from "./player.js";

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
    ...(report.remarks ?? []),
    ...(idle.length ? [t("gate.idle", { fields: idle.join(", ") })] : []),
  ];
}

function Finding({ finding, job, allowed, onAllow }) {
  const { code, severity, count, message, examples, recordings = [], final } = finding;
  const [first] = examples;
  return html`
    <li class="finding">
      <p><${Badge} kind=${severity === "error" ? "bad" : "warn"}>${t(`gate.${severity}`)}<//> <strong>${known(`gate.code.${code}`, code)}</strong></p>
      <p><span class="numbers">${format.number(count)}</span> ${message}</p>
      ${examples.length > 0 && html`<p class="small muted examples">${examples.join(" · ")}${count > examples.length && first ? ` · ${t("gate.more", { count: format.number(count - examples.length) })}` : ""}</p>`}
      <div class="offenders">${recordings.map((name) => html`<${Offender} key=${name} id=${job.id} name=${name} />`)}</div>
      ${severity === "error" && (final
        ? html`<p class="hint">${t("gate.final")}</p>`
        : onAllow && html`
          <label class="check"><input type="checkbox" checked=${allowed.includes(code)}
            onChange=${(event) => onAllow(event.currentTarget.checked ? [...allowed, code] : allowed.filter((one) => one !== code))} />
            <span>${t("gate.allow")}</span></label>`)}
    </li>`;
}

/** A clip that is fetched when somebody wants to hear it. */
function Offender({ id, name }) {
  const [clip, setClip] = useState(/** @type {any} */ (null));
  const [error, setError] = useState(/** @type {any} */ (null));
  const hear = async () => {
    try {
      const response = await call(`/training/jobs/${id}/recording?name=${encodeURIComponent(name)}`);
      setClip(await makeClip(await response.blob(), name));
    } catch (problem) { setError(problem); }
  };
  if (clip) return html`<${Player} clip=${clip} />`;
  return html`
    <button type="button" class="quiet small" onClick=${hear}><${Icon} name="play" />${t("gate.hear", { name })}</button>
    <${ErrorNote} error=${error} />`;
}
