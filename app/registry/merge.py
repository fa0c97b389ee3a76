"""Several LoRA adapters made into one, by PEFT's `add_weighted_adapter`."""

import tempfile
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch

from app.errors import BadRequest
from app.registry.adapter import Adapter
from app.registry.adapter_files.plain_peft import read_plain, wrap
from app.registry.adapter_files.weights import WEIGHTS
from app.registry.base import Registry

How = Literal["linear", "ties", "dare"]
# PEFT's names. Its own `linear` adds A and B apart, which leaves cross terms; `cat` is the exact weighted sum.
COMBINATIONS: dict[How, str] = {"linear": "cat", "ties": "ties", "dare": "dare_linear"}
DENSITY = 0.5  # share of the values that TIES and DARE keep


def merge(
    registry: Registry, model: Any, parts: Mapping[str, float], how: How, name: str, *, replace: bool = False
) -> Adapter:
    """Publish W + Σ weight · Δ as one adapter; TIES (Yadav et al., 2023) and DARE (Yu et al., 2024) thin the Δ first.

    ``model``: `empty_model` of the base. Raises AdapterNotFound, Conflict, and BadRequest for what cannot be merged.
    """
    adapters = [registry.get(part) for part in parts]
    _refuse_unmergeable(adapters, how)
    with tempfile.TemporaryDirectory() as folder:
        _combine(model, [registry.intact(adapter) for adapter in adapters], list(parts.values()), how, Path(folder))
        sources = ", ".join(f"{adapter.uid}:{parts[adapter.name]:g}" for adapter in adapters)
        prompts = [adapter.manifest.prompt for adapter in adapters if adapter.manifest.prompt]
        return registry.publish(
            Path(folder) / "merged",
            name,
            replace=replace,
            task=f"{how} merge of {sources}",
            prompt=prompts[0] if prompts else None,
        )


def _combine(model: Any, folders: list[Path], weights: list[float], how: How, out: Path) -> None:
    names = [f"part{place}" for place in range(len(folders))]
    owners = {path for path, _ in model.named_modules() if path}
    merged: Any = None
    with warnings.catch_warnings():  # PEFT 0.21 asks transformers 5.23 for a name that it has since deprecated
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing`", FutureWarning)
        for name, folder in zip(names, folders, strict=True):
            merged = wrap(model, read_plain(folder, WEIGHTS, owners), name=name, onto=merged)
    torch.manual_seed(0)  # DARE drops at random
    density = None if how == "linear" else DENSITY
    merged.add_weighted_adapter(names, weights, "merged", combination_type=COMBINATIONS[how], density=density)
    # the parts' scalings are in B by now; PEFT copies the first part's options, and √r would scale the sum anew
    merged.peft_config["merged"].use_rslora = False
    merged.save_pretrained(str(out), selected_adapters=["merged"], save_embedding_layers=False)


def _refuse_unmergeable(adapters: list[Adapter], how: How) -> None:
    if len(adapters) < 2:
        raise BadRequest("Name two adapters at least, such as a:0.6 b:0.4.")
    for adapter in adapters:
        if adapter.report.serving != "batched" or adapter.report.rank == 0 or "projector" in adapter.report.parts:
            raise BadRequest(f"{adapter.name!r} cannot be merged: only LoRA on tower and language model can.")
    ranks = sorted({adapter.report.rank for adapter in adapters})
    if how != "linear" and len(ranks) > 1:
        raise BadRequest(f"{how} needs equal ranks, these have {', '.join(map(str, ranks))}; --how linear takes any.")
