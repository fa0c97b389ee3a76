"""Output of the command line: answers and JSON on stdout, everything about them on stderr."""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import typer
from rich import box
from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from app.errors import AdapterRejected, DatasetError, OvertoneError, path_error

out = Console(highlight=False)
err = Console(stderr=True, highlight=False)
TIMINGS = {
    "queue": "queue",
    "activation": "adapter",
    "audio": "audio",
    "prefill": "prefill",
    "ttft": "first token",
    "decode": "decode",
    "total": "total",
}
NONE = "[dim]-[/dim]"


class Refused(OvertoneError):
    """A server answered with an error; status, code and problems are the server's own."""

    def __init__(self, status: int, code: str, message: str, problems: Sequence[str] = ()) -> None:
        self.status = status
        self.code = code
        self.problems = list(problems)
        super().__init__(message)


@contextmanager
def reported(as_json: bool) -> Iterator[None]:
    """Turn a domain error, or one of a path, into one red line (or JSON on stdout) and exit code 1."""
    try:
        yield
    except (OvertoneError, OSError) as caught:
        error = path_error(caught) if isinstance(caught, OSError) else caught
        problems = error.problems if isinstance(error, AdapterRejected | DatasetError | Refused) else []
        if as_json:
            facts = {"code": error.code, "status": error.status, "message": str(error)}
            print_json({"error": facts | ({"problems": problems} if problems else {})})
        else:
            _complain(str(error), problems)
        raise typer.Exit(1) from None


@contextmanager
def step(words: str, quiet: bool = False) -> Iterator[None]:
    """A spinner while something lasts, a tick once it is done; nothing when ``quiet``."""
    if quiet:
        yield
        return
    with err.status(f"{words} …"):
        yield
    err.print(f"[green]✓[/green] {words}")


def note(sentence: str) -> None:
    """A remark on stderr that stops nothing."""
    err.print(Text.assemble(("note ", "yellow"), sentence), soft_wrap=True)


def name_of(answer: Mapping[str, Any]) -> str:
    """The adapter that an answer was given with, or `base`."""
    return str(answer["adapter"]["name"])


def _complain(message: str, problems: Sequence[str]) -> None:
    """The error in red, with the reasons of a refused adapter one by one."""
    if problems:
        message = message.partition(f": {problems[0]}")[0] + ":"
    err.print(Text.assemble(("error ", "bold red"), (message, "red")), soft_wrap=True)
    for problem in problems:
        err.print(Text(f"  - {problem}", "red"), soft_wrap=True)


def print_json(value: Any) -> None:
    """One JSON document on stdout, readable in a terminal and by programs."""
    print(json.dumps(value, indent=2, ensure_ascii=False, default=str))


def table_of(*columns: str, title: str | None = None) -> Table:
    """An empty table in the look that all share."""
    return Table(*columns, title=title, title_justify="left", box=box.ROUNDED, header_style="bold")


def receipt_table(receipts: Sequence[Mapping[str, Any]], names: Sequence[str]) -> Group:
    """A row for each recording, and below them the warnings, which a column would break into single words."""
    table = table_of("recording", "format", "rate", "channels", "seconds", "used", "peak")
    notes = []
    for name, receipt in zip(names, receipts, strict=False):
        notes += [Text.assemble(("note ", "yellow"), f"{name}: {warning}") for warning in receipt["warnings"]]
        table.add_row(
            Text(name),
            f"{receipt['container']}/{receipt['codec']}",
            f"{receipt['sample_rate'] / 1000:g} kHz",
            str(receipt["channels"]),
            f"{receipt['seconds']:.2f}",
            f"{receipt['seconds_used']:.2f}",
            f"{receipt['peak']:.2f}",
        )
    return Group(table, *notes)


def timings_table(answers: Mapping[str, Mapping[str, Any]]) -> Table:
    """Milliseconds and tokens, a column an answer; ``answers`` maps a label to what `/generate` gives."""
    table = table_of("ms", *answers)
    for column in table.columns[1:]:
        column.justify = "right"
    listed = list(answers.values())
    for key, title in TIMINGS.items():
        table.add_row(title, *(f"{answer['timings_ms'].get(key, 0):.0f}" for answer in listed))
    table.add_section()
    table.add_row("tokens in", *(str(answer["usage"]["prompt_tokens"]) for answer in listed))
    table.add_row("tokens out", *(str(answer["usage"]["completion_tokens"]) for answer in listed))
    table.add_row("ended by", *(answer["finish_reason"] for answer in listed))
    return table


def megabytes(size: float) -> str:
    """A size for people: 0.84 MB."""
    return f"{size / 1e6:.2f} MB" if size < 1e9 else f"{size / 1e9:.2f} GB"
