/** What validation found in an adapter. */
import * as format from "../format.js";
import { known, t } from "../i18n.js";
import { html } from "../ui.js";
import { Reasons } from "./basics.js";

/** @param {{report: any}} props */
export const Report = ({ report }) => html`
  <dl class="pairs">
    <div><dt>${t("report.serving")}</dt><dd>${t(`serving.${report.serving}`)}</dd></div>
    ${report.parts.length > 0 && html`<div><dt>${t("report.parts")}</dt><dd>${report.parts.map((part) => known(`part.${part}`, part)).join(", ")}</dd></div>`}
    ${report.targets.length > 0 && html`<div><dt>${t("report.targets")}</dt><dd class="mono">${report.targets.join(", ")}</dd></div>`}
    ${report.labels.length > 0 && html`<div><dt>${t("report.labels")}</dt><dd>${report.labels.join(", ")}</dd></div>`}
    ${report.rank > 0 && html`<div><dt>${t("report.rank")}</dt><dd class="numbers">${report.rank} / ${format.number(report.alpha)}</dd></div>`}
    <div><dt>${t("report.parameters")}</dt><dd class="numbers">${format.number(report.parameters)} (${report.tensors} ${t("report.tensors")}, ${report.dtype})</dd></div>
    <div><dt>${t("report.warnings")}</dt><dd>${report.warnings.length ? html`<${Reasons} reasons=${report.warnings} />` : t("report.no-warnings")}</dd></div>
  </dl>`;
