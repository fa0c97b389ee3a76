"""`overtone bench`: this engine beside plain transformers and PEFT, in one run."""

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from app.cli.options import Device, Dtype, Json, Model, settings_with
from app.cli.output import err, out, print_json, reported
from app.cli.training import become

if TYPE_CHECKING:
    from app.bench.measure import Result
    from app.bench.workload import Case
    from app.model.base import LoadedModel
    from app.settings import Settings


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
        str | None, typer.Option(help="Cases as requests x adapters, such as 1x0,8x8,32x8. Default: all.")
    ] = None,
    train: Annotated[bool, typer.Option("--train", help="Training speed beside a plain loop instead.")] = False,
    as_json: Json = False,
) -> None:
    """Decode rate and time to first token of transformers, PEFT and Overtone on the same weights.

    Answers have a fixed length, greedy; every request hears a clip of its own.
    """
    if train:
        told = {"model": model, "random-weights": random_weights, "device": device, "dtype": dtype, "seconds": seconds}
        become("bench", [f"--{name}={value}" for name, value in told.items() if value] + ["--json"] * as_json)
    with reported(as_json):
        settings = settings_with(model=model, device=device, dtype=dtype)
        results, title = _run(settings, random_weights, _cases(only, seconds), new_tokens, repeats)
        if as_json:
            print_json({"run": title, "results": [result.as_dict() for result in results]})
        else:
            out.print(_table(results, title))


def _cases(only: str | None, seconds: float | None) -> "tuple[Case, ...]":
    from app.bench.workload import CASES, Case
    from app.errors import BadRequest

    if only is None:
        return tuple(replace(case, seconds=seconds) for case in CASES)
    try:
        pairs = [part.lower().split("x") for part in only.split(",")]
        return tuple(Case(int(requests), int(adapters), seconds) for requests, adapters in pairs)
    except ValueError:
        raise BadRequest(f"{only!r} names no cases; write requests x adapters, such as 1x0,8x8.") from None


def _run(
    settings: "Settings", size: str | None, cases: "tuple[Case, ...]", new_tokens: int, repeats: int
) -> "tuple[list[Result], str]":
    from app.bench.baselines import Baselines
    from app.bench.measure import measure, systems
    from app.bench.workload import write_adapters
    from app.service import Service

    loaded = _load(settings, size)
    results = []
    with tempfile.TemporaryDirectory() as folder:
        count = max(1, *(case.adapters for case in cases))
        adapters = write_adapters(loaded, Path(folder) / "made", count)
        baselines = Baselines(loaded, adapters)
        changes = {"adapters": Path(folder) / "registry", "kv_gb": _cache_gb(loaded, cases, new_tokens)}
        service = Service.over(settings.model_copy(update=changes), loaded)
        try:
            for name, made in adapters.items():
                service.registry.publish(made, name)
            for case in cases:
                for name, run in systems(service, baselines, case):
                    with err.status(f"{case.requests} requests, {case.adapters} adapters: {name} …"):
                        results.append(measure(name, run, case, new_tokens, repeats))
        finally:
            service.close()
    return results, _title(loaded, new_tokens, cases[0].seconds)


def _cache_gb(loaded: "LoadedModel", cases: "tuple[Case, ...]", new_tokens: int) -> float:
    """Room for the largest case and no more: the baselines want memory too."""
    from app.bench.workload import make_clip, make_prompt
    from app.engine.kv_cache import PagedCache

    longest = len(make_prompt(loaded, make_clip(loaded, 0))) + new_tokens + 16
    token_bytes = PagedCache.token_bytes(loaded.model.config.get_text_config(), loaded.dtype)
    return max(case.requests for case in cases) * longest * token_bytes / 1e9


def _load(settings: "Settings", size: str | None) -> "LoadedModel":
    from app.errors import BadRequest
    from app.model.base import load, pick_device, pick_dtype
    from app.model.random_weights import SIZES, random_weights

    device = pick_device(settings.device)
    dtype = pick_dtype(settings.dtype, device)
    with err.status("Loading the model …"):
        if size is None:
            return load(settings.model, device, dtype)
        if size not in SIZES:
            raise BadRequest(f"There are no dimensions named {size!r}; known: {', '.join(SIZES)}.")
        return random_weights(size, settings.model, device, dtype)


def _title(loaded: "LoadedModel", new_tokens: int, seconds: float | None) -> str:
    import torch

    where = torch.cuda.get_device_name(loaded.device) if loaded.device.type == "cuda" else "CPU"
    heard = "full windows" if seconds is None else f"clips of {seconds:g} s"
    dtype = str(loaded.dtype).removeprefix("torch.")
    return f"{loaded.spec.name}, {dtype}, {where}, torch {torch.__version__}, {heard}, {new_tokens} new tokens"


def _table(results: "list[Result]", title: str) -> Table:
    """One row a system and case; the ratio is to the first system of the same case."""
    table = Table(title=title)
    for column in ("requests", "adapters", "system"):
        table.add_column(column, no_wrap=True)
    for column in ("first ms", "decode tok/s", "whole tok/s", "ratio"):
        table.add_column(column, justify="right")
    case: Any = None
    slowest = 1.0
    for result in results:
        if case != (result.requests, result.adapters):
            case, slowest = (result.requests, result.adapters), result.total_rate
            table.add_section()
        table.add_row(
            str(result.requests),
            str(result.adapters),
            result.system,
            f"{result.ttft_ms:.0f}",
            f"{result.decode_rate:.1f}",
            f"{result.total_rate:.1f}",
            f"{result.total_rate / slowest:.2f}x",
        )
    return table
