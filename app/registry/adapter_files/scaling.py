"""LoRA's B as it is served: multiplied by its scaling, in the dtype of the model."""

from collections.abc import Mapping

import torch

from app.registry.adapter_files.config import LoraConfig
from app.registry.adapter_files.resolve import Meaning

_B = ".lora_B.weight"


def scaled(b: torch.Tensor, scaling: float, dtype: torch.dtype) -> torch.Tensor:
    """``scaling`` · ``b``, multiplied in float32."""
    return (b.float() * scaling).to(dtype)


def overflow(name: str, tensor: torch.Tensor, dtype: torch.dtype, scaling: float | None = None) -> str | None:
    """The problem of a tensor as it is served; None when all its numbers are finite.

    ``scaling``: the factor that it was multiplied by. An infinity would spoil other requests too: the batched product
    multiplies it by the zeros of other rows, and 0 · inf is NaN.
    """
    if torch.isfinite(tensor).all():
        return None
    kind = str(dtype).removeprefix("torch.")
    hint = "; serve with OVERTONE_DTYPE=bfloat16" if dtype == torch.float16 else ""
    times = "" if scaling is None else f" times its scaling {scaling:g}"
    return f"{name}{times} holds numbers too large for {kind}, in which it would be served{hint}"


def scaled_problems(tensors: Mapping[str, torch.Tensor], meaning: Meaning, dtype: torch.dtype) -> list[str]:
    """Problems of an adapter's ``tensors``, by path in the base model, once scaled and cast to ``dtype``."""
    problems, changes = [], False
    for path, tensor in tensors.items():
        lora = path.endswith(_B) and isinstance(meaning.config, LoraConfig)
        scaling = meaning.scaling_of(path.removesuffix(_B), tensor.shape[1]) if lora else None
        served = tensor.to(dtype) if scaling is None else scaled(tensor, scaling, dtype)
        problem = overflow(path, served, dtype, scaling)
        problems += [problem] if problem else []
        changes |= not path.endswith(".lora_A.weight") and bool(served.any())
    if len(problems) > 3:
        problems = [*problems[:3], f"and {len(problems) - 3} more tensors like these"]
    return problems if changes or problems else ["it would change nothing: every lora_B is zero once it is scaled"]
