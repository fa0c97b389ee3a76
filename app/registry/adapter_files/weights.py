"""An adapter's tensors, named by the base model's own module paths."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from app.models.weights.tensors import read_tensors
from app.registry.adapter_files.config import read_config
from app.registry.adapter_files.header import read_header
from app.registry.adapter_files.keys import module_path as module_path
from app.registry.adapter_files.resolve import resolve

WEIGHTS = "adapter_model.safetensors"
_SERVING_S = 30.0  # for patterns that validation has matched before, on a machine that may be busy now
_A = ".lora_A.weight"


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


def tensor_paths(folder: Path) -> set[str]:
    """Paths in the base model, or below its modules, of all tensors of an adapter."""
    return {module_path(key) for key in read_header(folder / WEIGHTS)}


def read_weights(folder: Path) -> AdapterWeights:
    """All tensors of a validated adapter that is served in batches."""
    held = read_tensors(folder / WEIGHTS)
    meaning = resolve(read_config(folder), held, _owners(held), seconds=_SERVING_S)
    tensors = {name.path: held[name.key] for name in meaning.names}
    lora = {}
    for key in [key for key in tensors if key.endswith(_A)]:
        path = key.removesuffix(_A)
        a, b = tensors.pop(key), tensors.pop(f"{path}.lora_B.weight")
        lora[path] = LoraPair(a, b, meaning.scaling_of(path, a.shape[0]))
    return AdapterWeights(lora, tensors)


def _owners(keys: Collection[str]) -> set[str]:
    """The modules that a validated adapter's tensors lie in."""
    return {module_path(key).removesuffix(_A) for key in keys if key.endswith(_A)}
