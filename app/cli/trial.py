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
    from app.bench.soak.resources import Server
    from app.bench.soak.run import SoakReport, Workload
    from app.settings import Settings

# glibc otherwise keeps blocks of tensors that have been freed, for reuse, which hides how much memory is in use
# (mallopt(3)).
STEADY_MEMORY = {"MALLOC_MMAP_THRESHOLD_": "65536"}
SHOWN = 20  # failures at most; --json has all


def run_soak(settings: "Settings", minutes: float, clients: int, hostile: bool, as_json: bool) -> None:
    """Run a soak and print its report; exit code 1 on any failure. ``hostile``: with tenants, one of which attacks."""
    from app.bench.soak.run import HOSTILE_SETTINGS, SETTINGS, soak

    with tempfile.TemporaryDirectory(prefix="overtone-soak-") as folder, err.status("Loading the model …") as status:

        def progress(words: str) -> None:
            status.update(f"{words} …")

        workload = _workload(settings, Path(folder), progress)
        progress("starting a server")
        changed = SETTINGS | HOSTILE_SETTINGS if hostile else SETTINGS
        with _server(settings, Path(folder), changed, tenants=hostile) as server:
            report = soak(server, minutes, clients, workload, progress)
    if as_json:
        print_json(report.as_dict())
    else:
        out.print(_soak_table(report))
    _end(report.failures, as_json)


def run_overload(settings: "Settings", seconds: float, as_json: bool) -> None:
    """Run an overload and print its report; exit code 1 on any failure."""
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


def _workload(settings: "Settings", folder: Path, progress: Callable[[str], None]) -> "Workload":
    import torch

    from app.bench.soak.oracle import texts
    from app.bench.soak.run import Workload
    from app.bench.soak.workload import make_adapters, sounds
    from app.models.loading import load, pick_device

    torch.set_num_threads(1)  # many small products: more threads only get in each other's way
    loaded = load(settings.model, pick_device(settings.device), torch.float32, settings.weights)
    recordings, adapters = sounds(), make_adapters(loaded, folder / "made")
    return Workload(recordings, adapters, texts(loaded, adapters, recordings, progress))


@contextmanager
def _server(
    settings: "Settings", folder: Path, changed: Mapping[str, str], tenants: bool = False
) -> "Iterator[Server]":
    """A ready server with an empty registry and a folder for its temporary files; ``tenants``: with keys."""
    from app.bench.soak.resources import Server
    from app.bench.soak.tenants import write
    from app.cli.process import ServerProcess

    registry, temporary = folder / "registry", folder / "temporary"
    registry.mkdir()
    temporary.mkdir()
    own = {"jobs": str(folder / "jobs"), "drain_seconds": "5", **changed}
    keys = write(folder / "keys.json") if tenants else None
    own |= {"keys_file": str(folder / "keys.json")} if tenants else {}
    environment = settings.for_children() | {f"OVERTONE_{name.upper()}": value for name, value in own.items()}
    options = ["--model", settings.model, "--device", settings.device, "--adapters", str(registry)]
    environment |= {"TMPDIR": str(temporary), **STEADY_MEMORY}
    with ServerProcess(folder / "server.log", *options, environment=environment) as process:
        process.wait_ready(600)
        yield Server(process.url, registry, temporary, keys)
        process.stop()


def _soak_table(report: "SoakReport") -> Table:
    verdict, start, end = report.verdict, report.start, report.end
    table = table_of("what", "seen", title=f"{report.minutes:g} minutes, {report.clients} clients")
    rows: dict[str, str] = {
        "requests": str(report.requests),
        "finished, equal to PEFT's answer": f"{verdict.finished - len(verdict.mismatches)} of {verdict.finished}",
        "left before the end": str(report.left),
        "refused, rightly": ", ".join(f"{code} {count}" for code, count in verdict.refused.items()) or "0",
        "operations": ", ".join(f"{what} {count}" for what, count in sorted(report.operations.items())),
        "tokens/s": f"{report.tokens_per_second:.0f}",
        "time of an answer, p50 / p99": f"{report.p50_seconds:.2f} s / {report.p99_seconds:.2f} s",
        "server's counters": ", ".join(f"{what} {count}" for what, count in report.counters.items()),
        "memory after warm-up / peak / end": " / ".join(
            f"{size / (1 << 20):.0f} MB" for size in (start.memory, report.peak_memory, end.memory)
        ),
        "open files, start / end": f"{start.open_files} / {end.open_files}",
        "KV pages, slots, pins, in line, leftovers": ", ".join(
            f"{getattr(start, name)} / {getattr(end, name)}"
            for name in ("kv_pages", "slots", "pins", "in_line", "leftovers")
        ),
        "longest wait for /health": f"{report.health_worst:.2f} s",
    }
    if report.attacks:
        rows["memory before any load"] = f"{report.fresh_memory / (1 << 20):.0f} MB"
        rows["attacks"] = ", ".join(f"{what} {count}" for what, count in sorted(report.attacks.items()))
        rows["their answers"] = ", ".join(f"{code}: {count}" for code, count in sorted(report.attacks_answered.items()))
    rows["failures"] = str(len(report.failures))
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
            err.print(f"and {len(failures) - SHOWN} more; --json has all")
    raise typer.Exit(1)
