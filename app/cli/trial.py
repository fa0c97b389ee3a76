"""`overtone bench --soak` and `--overload`: a server of one's own, tried under load."""

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import typer
from rich.table import Table

from app.cli.output import err, out, print_json, table_of

if TYPE_CHECKING:
    from app.bench.overload import Overloaded
    from app.bench.soak.footprint import Server
    from app.bench.soak.run import Score, Soaked
    from app.settings import Settings

# glibc otherwise keeps blocks of tensors that have been freed, for reuse, so that memory in use could not be told
# from memory once used (mallopt(3)).
STEADY_MEMORY = {"MALLOC_MMAP_THRESHOLD_": "65536"}
SHOWN = 20  # failures at most; --json tells all


def run_soak(settings: "Settings", minutes: float, clients: int, as_json: bool) -> None:
    """Print what it saw; exit code 1 on any failure."""
    from app.bench.soak.run import SETTINGS, soak

    with tempfile.TemporaryDirectory(prefix="overtone-soak-") as folder, err.status("Loading the model …") as status:

        def progress(words: str) -> None:
            status.update(f"{words} …")

        score = _score(settings, Path(folder), progress)
        progress("starting a server")
        with _server(settings, Path(folder), SETTINGS) as server:
            soaked = soak(server, minutes, clients, score, progress)
    if as_json:
        print_json(soaked.as_dict())
    else:
        out.print(_soak_table(soaked))
    _end(soaked.failures, as_json)


def run_overload(settings: "Settings", seconds: float, as_json: bool) -> None:
    """Print what it saw; exit code 1 where a promise was broken."""
    from app.bench.overload import SETTINGS, overload

    with (
        tempfile.TemporaryDirectory(prefix="overtone-overload-") as folder,
        err.status("starting a server …") as status,
        _server(settings, Path(folder), SETTINGS) as server,
    ):
        found = overload(server.url, seconds, lambda words: status.update(f"{words} …"))
    if as_json:
        print_json(found.as_dict())
    else:
        out.print(_overload_table(found))
    _end(found.failures, as_json)


def _score(settings: "Settings", folder: Path, progress: Callable[[str], None]) -> "Score":
    import torch

    from app.bench.soak.oracle import texts
    from app.bench.soak.repertoire import make_adapters, sounds
    from app.bench.soak.run import Score
    from app.model.base import load, pick_device

    torch.set_num_threads(1)  # many small products: more threads only get in each other's way
    loaded = load(settings.model, pick_device(settings.device), torch.float32)
    heard, adapters = sounds(), make_adapters(loaded, folder / "made")
    return Score(heard, adapters, texts(loaded, adapters, heard, progress))


@contextmanager
def _server(settings: "Settings", folder: Path, changed: Mapping[str, str]) -> "Iterator[Server]":
    """A ready server with an empty registry and a folder for its temporary files."""
    from app.bench.soak.footprint import Server
    from app.cli.process import ServerProcess

    registry, temporary = folder / "registry", folder / "temporary"
    registry.mkdir()
    temporary.mkdir()
    own = {"jobs": str(folder / "jobs"), "drain_seconds": "5", **changed}
    environment = settings.for_children() | {f"OVERTONE_{name.upper()}": value for name, value in own.items()}
    options = ["--model", settings.model, "--device", settings.device, "--adapters", str(registry)]
    environment |= {"TMPDIR": str(temporary), **STEADY_MEMORY}
    with ServerProcess(folder / "server.log", *options, environment=environment) as process:
        process.wait_ready(600)
        yield Server(process.url, registry, temporary)
        process.stop()


def _soak_table(soaked: "Soaked") -> Table:
    verdict, start, end = soaked.verdict, soaked.start, soaked.end
    table = table_of("what", "seen", title=f"{soaked.minutes:g} minutes, {soaked.clients} clients")
    rows: dict[str, str] = {
        "requests": str(soaked.requests),
        "finished, equal to PEFT's answer": f"{verdict.finished - len(verdict.mismatches)} of {verdict.finished}",
        "left before the end": str(soaked.left),
        "refused, rightly": ", ".join(f"{code} {count}" for code, count in verdict.refused.items()) or "0",
        "operations": ", ".join(f"{what} {count}" for what, count in sorted(soaked.operations.items())),
        "tokens/s": f"{soaked.tokens_per_second:.0f}",
        "time of an answer, p50 / p99": f"{soaked.p50_seconds:.2f} s / {soaked.p99_seconds:.2f} s",
        "server's counters": ", ".join(f"{what} {count}" for what, count in soaked.counters.items()),
        "memory after warm-up / peak / end": " / ".join(
            f"{size / (1 << 20):.0f} MB" for size in (start.memory, soaked.peak_memory, end.memory)
        ),
        "open files, start / end": f"{start.open_files} / {end.open_files}",
        "KV pages, slots, pins, in line, leftovers": ", ".join(
            f"{getattr(start, name)} / {getattr(end, name)}"
            for name in ("kv_pages", "slots", "pins", "in_line", "leftovers")
        ),
        "failures": str(len(soaked.failures)),
    }
    for what, seen in rows.items():
        table.add_row(what, seen)
    return table


def _overload_table(found: "Overloaded") -> Table:
    table = table_of("what", "seen", title=f"{found.seconds:g} s at the peak, {found.seconds:g} s at ten times as much")
    rows = {
        "peak, requests/s": f"{found.peak_rate:.2f}",
        "offered": f"{found.offered_rate:.2f}",
        "served": f"{found.served_rate:.2f} ({found.share:.1%} of the peak)",
        "answers / refusals": f"{found.served} / {found.refused}",
        "time until a refusal, p50 / p99": f"{1e3 * found.refused_p50:.0f} ms / {1e3 * found.refused_p99:.0f} ms",
        "time of an answer, p50 / p99": f"{found.served_p50:.2f} s / {found.served_p99:.2f} s",
        "bound: a full line at the peak rate, and half": f"{found.bound:.2f} s",
        "failures": str(len(found.failures)),
    }
    for what, seen in rows.items():
        table.add_row(what, seen)
    return table


def _end(failures: Sequence[str], as_json: bool) -> None:
    if not failures:
        return
    if not as_json:
        for failure in failures[:SHOWN]:
            err.print(failure, style="red", markup=False)
        if len(failures) > SHOWN:
            err.print(f"and {len(failures) - SHOWN} more; --json tells all")
    raise typer.Exit(1)
