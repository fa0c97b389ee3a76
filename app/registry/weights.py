"""An adapter's tensors, named by the base model's own module paths."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open

from app.model.tensors import read_tensors
from app.registry.config import read_config

WEIGHTS = "adapter_model.safetensors"
_PREFIX = "base_model.model."
# Paths of Qwen2-Audio before transformers 4.52 moved its parts under `model.`
_OLD_PATHS = (
    ("language_model.model.", "model.language_model."),
    ("language_model.lm_head", "lm_head"),
    ("audio_tower.", "model.audio_tower."),
    ("multi_modal_projector.", "model.multi_modal_projector."),
)


@dataclass(frozen=True)
class LoraPair:
    """``a`` [rank, in], ``b`` [out, rank], in the file's dtype; the layer adds ``scaling * b @ a``."""

    a: torch.Tensor
    b: torch.Tensor
    scaling: float


@dataclass(frozen=True)
class AdapterWeights:
    """``lora`` by module path; ``projector``: whole parameters of `modules_to_save`, by parameter path."""

    lora: Mapping[str, LoraPair]
    projector: Mapping[str, torch.Tensor]

    @property
    def rank(self) -> int:
        return max((pair.a.shape[0] for pair in self.lora.values()), default=0)


def module_path(key: str) -> str:
    """A key of the weight file as a path in the base model, whatever transformers wrote it."""
    path = key.removeprefix(_PREFIX).replace(".base_layer.", ".")
    for old, new in _OLD_PATHS:
        if path.startswith(old):
            return new + path.removeprefix(old)
    return path


def tensor_paths(folder: Path) -> set[str]:
    """Paths in the base model, or below its modules, of all tensors of an adapter."""
    with safe_open(folder / WEIGHTS, framework="pt") as file:
        return {module_path(key) for key in file.keys()}  # noqa: SIM118, not a mapping


def read_weights(folder: Path) -> AdapterWeights:
    """All tensors of a validated adapter that is served in batches."""
    config = read_config(folder)
    tensors = {module_path(key): tensor for key, tensor in read_tensors(folder / WEIGHTS).items()}
    lora = {}
    for key in [key for key in tensors if key.endswith(".lora_A.weight")]:
        path = key.removesuffix(".lora_A.weight")
        pair = LoraPair(tensors.pop(key), tensors.pop(f"{path}.lora_B.weight"), config.scaling_of(path))
        lora[path] = pair
    return AdapterWeights(lora, tensors)
