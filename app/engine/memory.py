"""How the memory is divided: weights are there already; what may the rest be used for?"""

import importlib.util
import math
from dataclasses import dataclass
from typing import Any

import torch

from app.engine.kv_cache import PagedCache
from app.engine.limits import EngineLimits
from app.engine.slots import planned_columns
from app.errors import BadRequest
from app.model.base import LoadedModel, part_of

PAGE_SIZE = 16  # tokens
_FUSED_PAGE_SIZE = 64  # as many as a program of the decode attention reads in two turns
_CPU_BYTES = 512 << 20
MARGIN = 1 << 30  # activations of the audio tower, graphs, what PyTorch and CUDA hold for themselves
QUANTISED = 1 << 24  # numbers of a matrix that are made float8 at a time


@dataclass(frozen=True)
class MemoryPlan:
    """The KV cache in pages, and what it was worked out from (bytes)."""

    pages: int
    page_size: int
    token_bytes: int
    weight_bytes: int
    slot_bytes: int = 0

    @property
    def kv_bytes(self) -> int:
        return self.pages * self.page_size * self.token_bytes

    def __str__(self) -> str:
        tokens = self.pages * self.page_size
        return (
            f"weights {self.weight_bytes / 1e9:.2f} GB, adapter slots up to {self.slot_bytes / 1e9:.2f} GB, "
            f"KV cache {self.kv_bytes / 1e9:.2f} GB = {tokens} tokens ({tokens // 1024} requests of 1024 tokens)"
        )


def use_fused(limits: EngineLimits, device: torch.device) -> bool:
    """Which decoder to take. Raises BadRequest where the fused one is asked for and cannot run."""
    has_triton = importlib.util.find_spec("triton") is not None
    if limits.decoder == "fused" and not has_triton:
        raise BadRequest("OVERTONE_DECODER=fused needs Triton, which torch for CUDA brings; use auto or modules.")
    return limits.decoder == "fused" or (limits.decoder == "auto" and has_triton and device.type == "cuda")


def plan_memory(loaded: LoadedModel, kv_gb: float | None, limits: EngineLimits) -> MemoryPlan:
    """Divide the memory; ``kv_gb`` in 10^9 bytes overrides the default. Raises BadRequest when none is left."""
    config = loaded.model.config.get_text_config()
    token_bytes = PagedCache.token_bytes(config, loaded.dtype)
    page_size = _FUSED_PAGE_SIZE if loaded.device.type == "cuda" else PAGE_SIZE
    slots = _slot_bytes(loaded, limits.max_resident)
    if kv_gb is not None:
        budget = int(kv_gb * 1e9)
    elif loaded.device.type == "cuda":
        free = torch.cuda.mem_get_info(loaded.device)[0]
        if limits.weights == "float8":
            free -= _float8_bytes(loaded)
        budget = free - slots - _buffer_bytes(config, loaded.dtype, limits) - limits.encoder_cache_bytes - MARGIN
    else:
        budget = _CPU_BYTES
    pages = budget // (token_bytes * page_size)
    if pages < 1:
        raise BadRequest(
            "The device has no room for a KV cache beside the weights. Lower OVERTONE_MAX_RESIDENT or "
            "OVERTONE_STEP_TOKENS, free the device, or use one with more memory."
        )
    weights = sum(p.nbytes for p in loaded.model.parameters())
    return MemoryPlan(pages, page_size, token_bytes, weights, slots)


def _slot_bytes(loaded: LoadedModel, residents: int) -> int:
    """The columns of so many adapters of rank 16 on every projection of the language model, as they are allocated."""
    widths = sum(sum(shape) for path, shape in loaded.spec.linears.items() if "language_model.layers" in path)
    return planned_columns(residents) * widths * loaded.dtype.itemsize


def _float8_bytes(loaded: LoadedModel) -> int:
    """The smaller copies of the matrices that decoding reads, their scales, and what making them takes.

    A part of a matrix in float32, its absolute values and its quotients lie beside one another.
    """
    shapes = [shape for path, shape in loaded.spec.linears.items() if part_of(path) == "language_model"]
    return sum(math.prod(shape) + 4 * shape[0] for shape in shapes) + 3 * 4 * QUANTISED


def _buffer_bytes(config: Any, dtype: torch.dtype, limits: EngineLimits) -> int:
    """What a step writes between the weights: rows of activations, logits twice over."""
    rows = max(limits.step_tokens, limits.max_batch)
    row = 10 * int(config.hidden_size) + 3 * int(config.intermediate_size)
    return (rows * row + 3 * limits.max_batch * int(config.vocab_size)) * max(dtype.itemsize, 4)
