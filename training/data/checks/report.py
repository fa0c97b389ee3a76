"""The gate's findings for people: a table for the terminal, lines for logs."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from training.data.checks.findings import Finding, GateReport

if TYPE_CHECKING:
    from rich.table import Table

USES = {"train": "trained on", "held_out": "held out", "unused": "not used"}


def table_of(report: GateReport, allow: Sequence[str] = ()) -> "Table":
    """One row a finding, with how to go on in spite of it."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    title = "\n".join([f"Data: {summary(report)}", *remarks_of(report)])
    table = Table("", "code", "count", "finding", "to go on", title=title, title_justify="left", box=box.ROUNDED)
    table.columns[2].justify = "right"
    for finding in report.findings:
        stops = finding in report.refused(allow)
        mark = Text("✗", "bold red") if stops else Text("!", "yellow")
        words = Text(finding.message)
        for example in finding.examples:
            words.append(f"\n  {example}", "dim")
        if finding.count > len(finding.examples) > 0:
            words.append(f"\n  and {finding.count - len(finding.examples)} more", "dim")
        table.add_row(mark, Text(finding.code), f"{finding.count:,}", words, Text(way_on(finding, allow)))
    return table


def lines_of(report: GateReport, allow: Sequence[str] = ()) -> Iterator[str]:
    """Plain words: a summary, how the source was understood, then one line a finding."""
    yield f"data: {summary(report)}"
    yield from remarks_of(report)
    for finding in report.findings:
        examples = f" ({'; '.join(finding.examples)})" if finding.examples else ""
        way = way_on(finding, allow)
        yield f"{finding.severity}: {sentence(finding)}{examples}" + (f"; {way}" if way else "")


def remarks_of(report: GateReport) -> Iterator[str]:
    """Use of the splits, recognised layouts, and fields without effect."""
    if any(split.name in ("validation", "test") for split in report.splits):
        uses = (f"{split.name or 'without a name'} ({split.rows:,} rows: {USES[split.use]})" for split in report.splits)
        yield f"splits: {', '.join(uses)}"
    yield from (f"read: {remark}" for remark in report.remarks)
    if report.idle_fields:
        yield f"fields without a meaning for training: {', '.join(report.idle_fields)}"


def sentence(finding: Finding) -> str:
    """`noise_only: 30 recordings are steady noise …`"""
    return f"{finding.code}: {finding.count:,} {finding.message}"


def summary(report: GateReport) -> str:
    """Sizes of the data set, in all and by class."""
    seconds = round(report.seconds)
    length = (
        f"{seconds // 3600} h {seconds % 3600 // 60} min" if seconds >= 3600 else f"{seconds // 60}:{seconds % 60:02}"
    )
    words = (
        f"{report.rows:,} rows to train on, {report.validation_rows:,} held out, {report.clips:,} recordings, {length}"
    )
    return words + (f", {len(report.classes)} classes" if report.classes else "")


def way_on(finding: Finding, allow: Sequence[str]) -> str:
    """The way to go on in spite of a finding; empty for warnings."""
    if finding.severity == "warning":
        return ""
    if finding.final:
        return "repair or remove them"
    return "allowed" if finding.code in allow else f"--allow {finding.code}"
