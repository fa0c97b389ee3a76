"""`overtone bench`: this engine beside plain transformers and PEFT, in one run."""

import gc
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from app.cli.options import Device, Dtype, Json, Model, settings_with
from app.cli.output import err, out, print_json, reported
from app.cli.quality import run_quality
from app.cli.training import become
from app.cli.trial import run_overload, run_soak
from app.errors import BadRequest
from app.logs import quiet_libraries

if TYPE_CHECKING:
    from app.bench.latency import Figure
    from app.bench.measure import Result
    from app.bench.workload import Case
    from app.models.loading import LoadedModel
    from app.service import Service
    from app.settings import Settings

ROUNDS = 4  # answers that each client of --http asks for, one after the other


@dataclass
class Report:
    """Results of a run; with ``show`` they are printed as they come."""

    show: bool
    title: str = ""
    results: "list[Result]" = field(default_factory=list)
    figures: "list[Figure]" = field(default_factory=list)

    def add(self, figures: "Iterable[Figure]") -> None:
        for what, figure, unit in figures:
            self.figures.append((what, figure, unit))
            if self.show:
                out.print(f"{what}: {figure:.1f} {unit}" if figure >= 3 else f"{what}: {figure:.3g} {unit}")

    def as_dict(self) -> dict[str, Any]:
        figures = [{"what": what, "figure": figure, "unit": unit} for what, figure, unit in self.figures]
        return {"run": self.title, "results": [result.as_dict() for result in self.results], "figures": figures}


def bench(
    model: Model = None,
    random_weights: Annotated[
        str | None, typer.Option(help="Random weights at these real dimensions instead of a model: 7b.")
    ] = None,
    device: Device = None,
    dtype: Dtype = None,
    new_tokens: Annotated[int, typer.Option(min=2, help="Tokens generated per request.")] = 64,
    repeats: Annotated[int, typer.Option(min=1, help="Runs of each case; the median counts.")] = 3,
    seconds: Annotated[
        float | None, typer.Option(min=0.5, help="Length of each clip. Default: the encoder's window.")
    ] = None,
    only: Annotated[
        str | None, typer.Option(help="Cases as requests x adapters, such as 1x0,8x8,128x32r16. Default: all.")
    ] = None,
    latency: Annotated[
        bool, typer.Option("--latency", help="Also waits: first tokens, a burst, cold adapters, arriving prompts.")
    ] = False,
    http: Annotated[
        str | None, typer.Option(help="Also a case through HTTP, and how long the server starts.", show_default=False)
    ] = None,
    train: Annotated[bool, typer.Option("--train", help="Training speed beside a plain loop instead.")] = False,
    batch: Annotated[int | None, typer.Option(min=1, help="With --train: clips of a step.", show_default=False)] = None,
    soak: Annotated[
        float | None,
        typer.Option(min=0.1, help="Minutes of everything at once against a live server instead.", show_default=False),
    ] = None,
    clients: Annotated[int, typer.Option(min=1, help="With --soak: how many ask at the same time.")] = 64,
    hostile: Annotated[
        bool, typer.Option("--hostile", help="With --soak: keys and tenants, one of which attacks all the time.")
    ] = False,
    overload: Annotated[
        float | None,
        typer.Option(
            min=1, help="Seconds at a server's peak rate, and at ten times that, instead.", show_default=False
        ),
    ] = None,
    quality: Annotated[
        Path | None,
        typer.Option(
            help="Word errors of each format of weights on a table of recordings instead.", show_default=False
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Decode rate and time to first token of transformers, PEFT and Overtone on the same weights.

    Answers have a fixed length, greedy; every request has a clip of its own.
    """
    if train:
        given: dict[str, Any] = {"model": model, "random-weights": random_weights, "device": device, "dtype": dtype}
        given |= {"seconds": seconds, "batch": batch}
        become("bench", [f"--{name}={value}" for name, value in given.items() if value] + ["--json"] * as_json)
    with reported(as_json):
        if batch:
            raise BadRequest("--batch is the clips of a training step: give --train too, or name cases with --only.")
        if hostile and not soak:
            raise BadRequest("--hostile is a tenant of the soak: give --soak MINUTES too.")
        settings = settings_with(model=model, device=device, dtype=dtype)
        quiet_libraries()
        if quality:
            return run_quality(settings, quality, as_json)
        if soak:
            return run_soak(settings, soak, clients, hostile, as_json)
        if overload:
            return run_overload(settings, overload, as_json)
        cases = _cases(only, seconds)
        through_http = _cases(http, seconds)[0] if http else None
        report = Report(show=not as_json)
        with tempfile.TemporaryDirectory() as folder:
            loaded = _load(settings, random_weights)
            _run(report, settings, loaded, cases, new_tokens, repeats, latency, through_http, Path(folder))
            if through_http:
                model = _served(loaded, settings, random_weights, Path(folder))
                del loaded
                _over_http(report, settings, model, through_http, new_tokens, Path(folder))
        if as_json:
            print_json(report.as_dict())


def _cases(only: str | None, seconds: float | None) -> "tuple[Case, ...]":
    from dataclasses import replace

    from app.bench.workload import CASES, parse_case

    if only is None:
        return tuple(replace(case, seconds=seconds) for case in CASES)
    try:
        return tuple(parse_case(part, seconds) for part in only.split(","))
    except ValueError:
        raise BadRequest(f"{only!r} names no cases; write requests x adapters, such as 1x0,8x8.") from None


def _run(
    report: Report,
    settings: "Settings",
    loaded: "LoadedModel",
    cases: "tuple[Case, ...]",
    new_tokens: int,
    repeats: int,
    latency: bool,
    through_http: "Case | None",
    folder: Path,
) -> None:
    from app.bench.baselines import Baselines
    from app.bench.latency import figures
    from app.bench.measure import baselines_of, measure_baseline, measure_engine, sustained_rate
    from app.bench.workload import write_all

    report.title = _title(loaded, new_tokens, cases[0].seconds)
    asked = (*cases, through_http) if through_http else cases
    adapters = write_all(loaded, folder / "made", asked)
    baselines = Baselines(loaded, {name: made for name, made in adapters.items() if "-r8-" in name})
    for case in cases:
        for name, run in baselines_of(baselines, case):
            with err.status(f"{case}: {name} …"):
                report.results.append(measure_baseline(name, run, case, new_tokens, repeats))
    del baselines
    _free()
    with _service(settings, loaded, asked, new_tokens, adapters, folder) as service:
        for case in cases:
            with err.status(f"{case}: Overtone …"):
                report.results.append(measure_engine(service, case, new_tokens, repeats))
        order = {str(case): index for index, case in enumerate(cases)}
        report.results.sort(key=lambda result: order[result.case])
        if report.show:
            out.print(_table(report.results, report.title))
        if latency:
            service.engine.free_slots().result()
            with err.status("…") as status:
                report.add(figures(service, len(adapters), repeats, lambda what: status.update(f"{what} …")))
        if through_http:
            with err.status(f"{through_http}, again and again …"):
                rate = sustained_rate(service, through_http, new_tokens, ROUNDS)
            name = f"{through_http}, {ROUNDS} answers in a row"
            report.add([(f"{name}: first token", rate.first_token_ms, "ms")])
            report.add([(name, rate.tokens_per_second, "tokens/s")])


@contextmanager
def _service(
    settings: "Settings",
    loaded: "LoadedModel",
    cases: "tuple[Case, ...]",
    new_tokens: int,
    adapters: dict[str, Path],
    folder: Path,
) -> "Iterator[Service]":
    """An engine over the model, large enough for the largest case, with the adapters in its registry."""
    from app.service import Service

    most = max(case.requests for case in cases)
    changes = {"adapters": folder / "registry", "max_batch": max(most, settings.max_batch)}
    if loaded.device.type == "cpu":
        changes["kv_gb"] = _cache_gb(loaded, most, new_tokens)
    service = Service.over(settings.model_copy(update=changes), loaded)
    try:
        for name, made in adapters.items():
            service.registry.publish(made, name)
        yield service
    finally:
        service.close()


def _served(loaded: "LoadedModel", settings: "Settings", size: str | None, folder: Path) -> str:
    """The model that a server of `--http` loads: weights at rest are drawn again, since they are not written."""
    if size is None:
        return settings.model
    return _saved(loaded, folder) if loaded.spec.weights == "bfloat16" else f"random:{size}"


def _saved(loaded: "LoadedModel", folder: Path) -> str:
    """The model as a checkpoint, so that a server's start reads weights as it would a real model's."""
    target = folder / "model"
    _free()
    with err.status("Saving the weights …"):
        loaded.model.save_pretrained(target)
        loaded.processor.save_pretrained(target)
    return str(target)


def _over_http(report: Report, settings: "Settings", model: str, case: "Case", new_tokens: int, folder: Path) -> None:
    """The case through a server of its own, and how long that took to start."""
    import time

    from app.bench.over_http import Load, rate_of
    from app.bench.workload import WORDS
    from app.cli.process import ServerProcess

    _free()
    (_, own_first, _), (_, own, _) = report.figures[-2:]  # of `_run`
    adapters = [case.adapter_of(client) or "base" for client in range(case.requests)]
    options = ["--model", model, "--adapters", str(folder / "made")]
    options += ["--device", settings.device, "--dtype", settings.dtype]
    begun = time.perf_counter()
    with ServerProcess(folder / "server.log", *options) as server, err.status("through HTTP …"):
        server.wait_ready(600)
        report.add([("process start until ready", time.perf_counter() - begun, "s")])
        load = Load(server.url, WORDS, adapters, case.seconds or 30.0, new_tokens, ROUNDS)
        rate = rate_of(load)
        server.stop()
    report.add(
        [
            ("the same through HTTP, streaming: first token", rate.first_token_ms, "ms"),
            ("times the engine's own", rate.first_token_ms / own_first, ""),
            ("the same through HTTP, streaming", rate.tokens_per_second, "tokens/s"),
            ("share of the engine's own", rate.tokens_per_second / own, ""),
        ]
    )


def _free() -> None:
    """Give memory of what is no longer used back to the device."""
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _cache_gb(loaded: "LoadedModel", requests: int, new_tokens: int) -> float:
    """Room for so many requests and no more: the baselines want memory too."""
    from app.bench.workload import make_clip, make_prompt
    from app.engine.kv_cache.paged_cache import PagedCache

    longest = len(make_prompt(loaded, make_clip(loaded, 0))) + new_tokens + requests + 16
    token_bytes = PagedCache.token_bytes(loaded.model.config.get_text_config(), loaded.dtype)
    return max(64, requests) * longest * token_bytes / 1e9


def _load(settings: "Settings", size: str | None) -> "LoadedModel":
    from app.bench.workload import say_words
    from app.models.loading import load, pick_device, pick_dtype
    from app.models.weights.random_weights import random_weights

    device = pick_device(settings.device)
    dtype = pick_dtype(settings.dtype, device)
    with err.status("Loading the model …"):
        if size is None:
            return load(settings.model, device, dtype, settings.weights)
        return say_words(random_weights(size, settings.model, device, dtype, settings.weights))


def _title(loaded: "LoadedModel", new_tokens: int, seconds: float | None) -> str:
    import torch

    where = torch.cuda.get_device_name(loaded.device) if loaded.device.type == "cuda" else "CPU"
    audio = "full windows" if seconds is None else f"clips of {seconds:g} s"
    dtype = str(loaded.dtype).removeprefix("torch.")
    if loaded.spec.weights != "bfloat16":
        dtype += f" with {loaded.spec.weights} weights"
    return f"{loaded.spec.name}, {dtype}, {where}, torch {torch.__version__}, {audio}, {new_tokens} new tokens"


def _table(results: "list[Result]", title: str) -> Table:
    """One row per system and case; the ratio is to the first system of the same case."""
    table = Table(title=title)
    for column in ("case", "system"):
        table.add_column(column, no_wrap=True)
    for column in ("first ms", "decode tok/s", "whole tok/s", "ratio"):
        table.add_column(column, justify="right")
    case, slowest = None, 1.0
    for result in results:
        if case != result.case:
            case, slowest = result.case, result.total_rate
            table.add_section()
        table.add_row(
            result.case,
            result.system,
            f"{result.ttft_ms:.0f}",
            f"{result.decode_rate:.1f}",
            f"{result.total_rate:.1f}",
            f"{result.total_rate / slowest:.2f}x",
        )
    return table
