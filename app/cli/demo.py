"""`overtone demo`: base model, adapter and base model again on a real recording, each step checked."""

import json
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.text import Text

from app.cli.options import Json, settings_with
from app.cli.output import name_of, out, print_json, receipt_table, reported, step, table_of, timings_table

if TYPE_CHECKING:
    from app.cli.client import Client

CLIP = Path(__file__).parents[1] / "web" / "demo.flac"
CHECKOUT, INSTALLED = Path(__file__).parents[2] / "adapters", Path(sys.prefix) / "share" / "overtone" / "adapters"
ADAPTERS = INSTALLED if INSTALLED.is_dir() and not CHECKOUT.is_dir() else CHECKOUT
SAID = "go forward ten meters"
PROMPT = "Transcribe the audio."
ADAPTER = "command-json"
START_S = 180.0
NUMBERS = {
    word: n
    for n, word in enumerate(["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"])
}


@dataclass(frozen=True)
class DemoRun:
    """The server's answers, in order."""

    before: Mapping[str, Any]
    adapted: Mapping[str, Any]
    unloaded: Mapping[str, Any]
    after: Mapping[str, Any]
    fingerprint: str
    exit_code: int

    @property
    def answers(self) -> dict[str, Mapping[str, Any]]:
        """The three answers, by the moment of the request."""
        return {"at first": self.before, "with an adapter": self.adapted, "after /unload": self.after}

    @property
    def checks(self) -> dict[str, bool]:
        """The claims of the demo; true where they held."""
        return {
            "the adapter changes the answer": self.adapted["text"] != self.before["text"],
            "its answer is the spoken command as JSON": as_command(self.adapted["text"]) == command_in(SAID),
            "after /unload the first answer is back": self.after["text"] == self.before["text"],
            "the base model's fingerprint is the one at start": self.unloaded["fingerprint"] == self.fingerprint,
            "the server stopped cleanly": self.exit_code == 0,
        }


def command_in(transcript: str) -> dict[str, str | int]:
    """The command in "go <direction> <number> <unit>"."""
    _, direction, number, unit = transcript.split()
    return {"intent": "move", "direction": direction, "distance": NUMBERS[number], "unit": unit}


def as_command(answer: str) -> Any:
    """An answer as JSON; None when it is none."""
    try:
        return json.loads(answer)
    except ValueError:
        return None


def demo(
    model: Annotated[str | None, typer.Option(help="Another model than the embedded one.", show_default=False)] = None,
    adapters: Annotated[Path, typer.Option(help="The registry folder.")] = ADAPTERS,
    as_json: Json = False,
) -> None:
    """Start, ask about a real recording without, with, again without an adapter, check, stop."""
    with reported(as_json), tempfile.TemporaryDirectory(prefix="overtone-demo-") as folder:
        finished = _run(model, adapters, Path(folder) / "server.log", quiet=as_json)
        checks = finished.checks
        if as_json:
            keys = ("before", "adapted", "unloaded", "after")
            print_json({key: getattr(finished, key) for key in keys} | {"checks": checks})
        else:
            _show(finished)
        if not all(checks.values()):
            raise typer.Exit(1)


def _run(model: str | None, adapters: Path, log: Path, quiet: bool) -> DemoRun:
    from app.cli.client import Client
    from app.cli.process import ServerProcess
    from app.settings import EMBEDDED_MODEL

    options = ["--model", model or str(EMBEDDED_MODEL), "--device", "cpu", "--dtype", "float32"]
    settings = settings_with()
    key = next(iter(settings.admin_keys or settings.api_keys), None)
    with ServerProcess(log, *options, "--adapters", str(adapters)) as server, Client(server.url, key) as client:
        with step(f"Starting the service at {server.url}", quiet):
            server.wait_ready(START_S)
        fingerprint = client.call("GET", "/ready")["fingerprint"]
        with step("Asking the base model", quiet):
            before = _ask(client, None)
        with step(f"Asking the adapter {ADAPTER}", quiet):
            adapted = _ask(client, ADAPTER)
        with step("POST /unload", quiet):
            unloaded = client.call("POST", "/unload")
        with step("Asking the base model again", quiet):
            after = _ask(client, None)
        with step("Stopping the service", quiet):
            exit_code = server.stop()
    return DemoRun(before, adapted, unloaded, after, fingerprint, exit_code)


def _ask(client: "Client", adapter: str | None) -> Any:
    fields = {"prompt": PROMPT} | ({"adapter": adapter} if adapter else {})
    return client.call("POST", "/generate", data=fields, files={"audio": (CLIP.name, CLIP.read_bytes())})


def _show(finished: DemoRun) -> None:
    """The three answers, the receipt, the timings and the checks."""
    answers = table_of("asked", "adapter", "answer", title=f"{CLIP.name}: a person says “{SAID}”")
    for label, answer in finished.answers.items():
        answers.add_row(label, name_of(answer), Text(answer["text"]))
    out.print(answers)
    out.print(receipt_table(finished.before["audio"], [CLIP.name]))
    out.print(timings_table(finished.answers))
    for claim, held in finished.checks.items():
        out.print("[green]✓[/green]" if held else "[bold red]✗[/bold red]", claim)
