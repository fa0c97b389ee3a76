"""A run in the terminal: a progress bar while it works, tables before and after."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from training.data.checks.findings import GateReport
from training.data.checks.report import lines_of, table_of
from training.evaluation import verdict
from training.events import Event
from training.promotion import sentences
from training.reports.metrics import METRICS
from training.reports.outcome import Outcome

out = Console(highlight=False)
err = Console(stderr=True, highlight=False)
EVERY = 20  # steps between two lines where no terminal listens


class Display:
    """Shows events on stderr; a bar in a terminal, lines in a log."""

    def __init__(self, allow: Sequence[str] = ()) -> None:
        self._allow = allow
        self._live = err.is_terminal
        self._progress = Progress(
            TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(),
            TextColumn("{task.fields[facts]}"), console=err, transient=True,
        )  # fmt: skip
        self._tasks: dict[str, TaskID] = {}

    def __enter__(self) -> "Display":
        if self._live:
            self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def counted(self, done: int, total: int) -> None:
        """Recordings measured."""
        if self._live:
            self._bar("listening", done, total, "")

    def event(self, event: Event) -> None:
        """One event of the run."""
        show = getattr(self, f"_{event['event']}", None)
        if show:
            show(event)

    def _gate(self, event: Event) -> None:
        report = GateReport.of(event["report"])
        if self._live and report.findings:
            err.print(table_of(report, self._allow))
        else:
            for line in lines_of(report, self._allow):
                self._say(escape(line))

    def _start(self, event: Event) -> None:
        rows = event.get("rows")
        if isinstance(rows, dict):
            self._say(
                f"[green]✓[/green] {event['trainable']:,} parameters to train on {event['device']}"
                + (f" and {event['processes'] - 1} more: " if event["processes"] > 1 else ": ")
                + f"{rows['train']:,} rows, {rows['validation']:,} held out, {event['steps']:,} steps"
                + (" (goes on from its checkpoint)" if event["resumed"] else "")
            )

    def _step(self, event: Event) -> None:
        facts = [f"epoch {event['epoch']:.1f}", f"loss {event['loss']:.3f}"]
        if "tokens_per_second" in event:
            facts.append(f"{event['tokens_per_second']:,.0f} tokens/s")
        if event.get("memory_gb"):
            facts.append(f"{event['memory_gb']:.1f} GB")
        if self._live:
            self._bar("training", event["step"], event["steps"], ", ".join(facts))
        elif event["step"] % EVERY == 0 or event["step"] == event["steps"]:
            facts.append(f"{event['eta_seconds']:.0f} s to go")
            self._say(f"step {event['step']} of {event['steps']}: {', '.join(facts)}")

    def _eval(self, event: Event) -> None:
        best = " [green](best)[/green]" if event["best"] else ""
        self._say(f"  after step {event['step']}: held-out loss {event['loss']:.4f}{best}")

    def _exam(self, event: Event) -> None:
        if self._live:
            who = "base answers" if event["side"] == "before" else "adapter answers"
            self._bar(who, event["done"], event["total"], "")

    def _watch(self, event: Event) -> None:
        self._say(
            f"  projector moved by {event['relative_change']:.3%} (cosine {event['cosine']:.6f}), "
            f"{event['general_answers_changed']:.0%} of the general answers changed"
        )

    def _memory(self, event: Event) -> None:
        how = ", gradient checkpointing" if event["checkpointing"] else ""
        self._say(f"[yellow]memory ended:[/yellow] going on with {event['micro_tokens']:,} tokens at once{how}")

    def _pushed(self, event: Event) -> None:
        self._say(f"[green]✓[/green] uploaded: {event['url']}")

    def _say(self, line: str) -> None:
        err.print(line, soft_wrap=True)

    def _bar(self, words: str, done: int, total: int, facts: str) -> None:
        if words not in self._tasks:
            self._tasks[words] = self._progress.add_task(words, total=total, facts=facts)
        self._progress.update(self._tasks[words], completed=done, facts=facts)


def show_outcome(outcome: Outcome, place: str) -> None:
    """Figures before and after, and what to do next."""
    adapter, metrics = outcome.adapter, outcome.trained.metrics
    table = Table("", "base", "adapter", title=f"On {metrics['rows']} held-out rows", box=box.ROUNDED)
    for name in (key for key in metrics["after"] if not key.endswith("_range")):
        title = METRICS[name][2] if name in METRICS else name.replace("_", " ")
        table.add_row(title, *(_cell(metrics[side], name) for side in ("before", "after")))
    for key, facts in (("listening", ("changed",)), ("retention", ("same", "similar"))):
        for fact in facts:
            if key in metrics:
                table.add_row(ROWS[key, fact], "", f"{100 * metrics[key][fact]:.0f} %", style="dim")
    out.print(table)
    if "judged_by" in metrics:
        for line in verdict(metrics):
            err.print(Text(f"! {line}", "yellow"), soft_wrap=True)
    if "comparison" in metrics:
        for line in sentences(metrics["comparison"], adapter.name, adapter.version):
            err.print(Text(f"  {line}"), soft_wrap=True)
    if not outcome.trained.promoted:
        out.print(f"[yellow]![/yellow] {adapter.name} version {adapter.version} is kept in {place}, and not served")
        return
    out.print(f"[green]✓[/green] {adapter.name} version {adapter.version} is published in {place}")
    verb = "/classify" if adapter.report.serving == "classify" else f"/generate -F adapter={adapter.name}"
    out.print(f"  A running service on that folder serves it within seconds: POST {verb}", style="dim", soft_wrap=True)


ROWS = {
    ("listening", "changed"): "answers that change in silence",
    ("retention", "same"): "general answers unchanged",
    ("retention", "similar"): "general answers, characters unchanged",
}


def _cell(side: Mapping[str, Any], name: str) -> str:
    if name not in side:
        return ""
    low_high = side.get(f"{name}_range")
    words = f"{100 * side[name]:.1f} %"
    return f"{words} ({100 * low_high[0]:.1f}–{100 * low_high[1]:.1f})" if low_high else words
