"""`overtone plan`: what a model and its clients take of a card, reckoned without loading anything."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from app.cli.options import Dtype, Json, settings_with
from app.cli.output import out, print_json, reported, table_of

if TYPE_CHECKING:
    import torch

    from app.engine.config import EngineConfig
    from app.engine.memory import DoesNotFit, MemoryPlan
    from app.models.shape import ModelShape

CARDS = (12.0, 16.0, 24.0, 48.0, 80.0)
_BESIDE = ("buffers", "work", "encoder cache", "plain PEFT", "graphs", "audio", "CUDA", "margin")
_NONE = "-"


def plan(
    model: Annotated[
        str | None,
        typer.Argument(help="random:7b, a folder with a config.json, or a Hub id. Default: OVERTONE_MODEL."),
    ] = None,
    gpu_gb: Annotated[
        float | None,
        typer.Option(min=0.1, help="Memory of the card in 10^9 bytes. Default: cards of several sizes."),
    ] = None,
    kv_gb: Annotated[float | None, typer.Option(help="Size of the KV cache in place of the rest.")] = None,
    dtype: Dtype = None,
    as_json: Json = False,
) -> None:
    """Show which formats of the weights fit a card, and how many clients they leave room for.

    Nothing is loaded or downloaded, and no GPU is needed. A server plans with the same function when it starts; GB are
    10^9 bytes.
    """
    with reported(as_json):
        settings = settings_with(model=model, gpu_gb=gpu_gb, kv_gb=kv_gb, dtype=dtype)
        import torch

        from app.logs import quiet_libraries
        from app.models.shape import shape_from
        from app.service.service import engine_config

        quiet_libraries()
        shape, limits = shape_from(settings.model), engine_config(settings)
        kind = torch.bfloat16 if settings.dtype == "auto" else getattr(torch, settings.dtype)
        cards = CARDS if settings.gpu_gb is None else (settings.gpu_gb,)
        fused = shape.fused and settings.decoder != "modules"
        plans = {card: _plans(shape, limits, kind, card, settings.kv_gb, fused) for card in cards}
        training = _training(shape, kind)
        if as_json:
            return print_json(_facts(shape, kind, plans, training))
        if settings.gpu_gb is None:
            _show_cards(shape, plans)
        else:
            _show_card(shape, settings.gpu_gb, plans[settings.gpu_gb], training)


Plans = Mapping[str, "MemoryPlan | DoesNotFit"]


def _gb(size: int) -> str:
    from app.models.device_memory import gb

    return gb(size)


def _plans(
    shape: "ModelShape", limits: "EngineConfig", dtype: "torch.dtype", card: float, kv_gb: float | None, fused: bool
) -> Plans:
    """The plan of each format of weights for a card of ``card`` · 10^9 bytes, or why there is none."""
    from app.engine.memory import DoesNotFit, plan
    from app.models.shape import WEIGHTS

    found: dict[str, MemoryPlan | DoesNotFit] = {}
    for weights in WEIGHTS:
        try:
            found[weights] = plan(shape, limits, dtype, int(card * 1e9), kv_gb=kv_gb, fused=fused, weights=weights)
        except DoesNotFit as error:
            found[weights] = error
    return found


def _training(shape: "ModelShape", dtype: "torch.dtype") -> dict[str, int]:
    """Bytes of LoRA training with one clip of 30 s at a time, by format of the base."""
    from app.models.shape import WEIGHTS
    from app.models.training_memory import least_training_bytes

    return {weights: least_training_bytes(shape, dtype.itemsize, weights) for weights in WEIGHTS}


def _show_cards(shape: "ModelShape", plans: Mapping[float, Plans]) -> None:
    """One row per card, one column per format: clients, or what the format needs."""
    from app.engine.memory import DoesNotFit

    formats = list(next(iter(plans.values())))
    table = table_of("card", *formats, title=f"{shape.name}: clients with 30 s of audio at a time")
    for column in table.columns:
        column.justify = "right"
    for card, found in plans.items():
        cells = [
            f"needs {_gb(one.needed)}" if isinstance(one, DoesNotFit) else str(one.clients) for one in found.values()
        ]
        table.add_row(f"{card:g} GB", *cells)
    out.print(table)
    out.print("With --gpu-gb 24: what takes how much, and the settings that a server takes.", style="dim")


def _show_card(shape: "ModelShape", card: float, found: Plans, training: Mapping[str, int]) -> None:
    """One row per format: what takes how much; then the settings of each, and what training takes."""
    from app.engine.memory import DoesNotFit

    columns = ("weights as", "weights", "adapters", "KV cache", "other", "all", "clients", "batch")
    table = table_of(*columns, title=f"{shape.name} on {card:g} GB")
    for column in table.columns[1:]:
        column.justify = "right"
    for weights, one in found.items():
        if isinstance(one, DoesNotFit):
            table.add_row(weights, *[_NONE] * 4, _gb(one.needed), "none", _NONE)
            continue
        parts = one.parts
        other = sum(parts[name] for name in _BESIDE)
        cells = [parts["weights"], parts["adapters"], parts["KV cache"], other, one.total]
        assert one.level is not None
        table.add_row(weights, *(_gb(cell) for cell in cells), str(one.clients), str(one.level.max_batch))
    out.print(table)
    out.print(_settings(found))
    fits = [weights for weights, needed in training.items() if needed <= card * 1e9]
    needs = ", ".join(f"{weights} {_gb(needed)}" for weights, needed in training.items())
    out.print(Text(f"LoRA training, one clip of 30 s at a time, GB: {needs}. Fits: {', '.join(fits) or 'none'}."))
    out.print("clients: requests with 30 s of audio that run at a time; others wait. GB are 10^9 bytes.", style="dim")


def _settings(found: Plans) -> Table:
    """The settings that a server takes with each format, and what they make room for."""
    from app.engine.memory import DoesNotFit

    columns = ("weights as", "batch", "step tokens", "encoder cache MiB", "KV tokens", "adapters r 16")
    table = table_of(*columns, title="What a server then takes; no more than the settings say")
    for column in table.columns[1:]:
        column.justify = "right"
    for weights, one in found.items():
        if not isinstance(one, DoesNotFit):
            facts = _plan_facts(one)
            adapters = facts["adapter_columns"] // 16
            table.add_row(weights, *map(str, [*facts["settings"].values(), facts["kv_tokens"], adapters]))
    return table


def _facts(
    shape: "ModelShape", dtype: "torch.dtype", plans: Mapping[float, Plans], training: Mapping[str, int]
) -> dict[str, Any]:
    """All of it as JSON; bytes are whole numbers."""
    cards = [
        {"gpu_gb": card, "weights": {weights: _plan_facts(one) for weights, one in found.items()}}
        for card, found in plans.items()
    ]
    return {
        "model": shape.name,
        "parameters": shape.numbers,
        "dtype": str(dtype).removeprefix("torch."),
        "cards": cards,
        "training_bytes": dict(training),
    }


def _plan_facts(one: "MemoryPlan | DoesNotFit") -> dict[str, Any]:
    """A plan, or why there is none, as JSON."""
    from app.engine.memory import DoesNotFit

    if isinstance(one, DoesNotFit):
        return {"fits": False, "needed_bytes": one.needed, "why": str(one)}
    assert one.level is not None
    return {
        "fits": True,
        "bytes": {**one.parts, "all": one.total},
        "clients": one.clients,
        "kv_tokens": one.kv_tokens,
        "adapter_columns": one.columns,
        "settings": {
            "OVERTONE_MAX_BATCH": one.level.max_batch,
            "OVERTONE_STEP_TOKENS": one.level.step_tokens,
            "OVERTONE_ENCODER_CACHE_MB": one.level.encoder_cache_bytes >> 20,
        },
    }
