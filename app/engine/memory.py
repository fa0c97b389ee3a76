"""How the memory is divided: weights are there already; what is the KV cache to take?"""

from dataclasses import dataclass

import torch

from app.engine.kv_cache import PagedCache
from app.model.base import LoadedModel

PAGE_SIZE = 16  # tokens
_CPU_BYTES = 512 << 20
_CUDA_SHARE = 0.85  # of what is free once the weights are loaded; the rest: adapters, activations


@dataclass(frozen=True)
class MemoryPlan:
    """The KV cache in pages, and what it was worked out from (bytes)."""

    pages: int
    page_size: int
    token_bytes: int
    weight_bytes: int

    @property
    def kv_bytes(self) -> int:
        return self.pages * self.page_size * self.token_bytes

    def __str__(self) -> str:
        tokens = self.pages * self.page_size
        return (
            f"weights {self.weight_bytes / 1e9:.2f} GB, KV cache {self.kv_bytes / 1e9:.2f} GB = "
            f"{tokens} tokens ({tokens // 1024} requests of 1024 tokens)"
        )


def plan_memory(loaded: LoadedModel, kv_gb: float | None) -> MemoryPlan:
    """Divide the memory; ``kv_gb`` in 10^9 bytes overrides the default."""
    token_bytes = PagedCache.token_bytes(loaded.model.config.get_text_config(), loaded.dtype)
    if kv_gb is not None:
        budget = int(kv_gb * 1e9)
    elif loaded.device.type == "cuda":
        budget = int(torch.cuda.mem_get_info(loaded.device)[0] * _CUDA_SHARE)
    else:
        budget = _CPU_BYTES
    weights = sum(p.nbytes for p in loaded.model.parameters())
    return MemoryPlan(max(1, budget // (token_bytes * PAGE_SIZE)), PAGE_SIZE, token_bytes, weights)
