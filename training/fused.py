"""Qwen2's elementwise work in fewer kernels: norms, the MLP's activation and rotary embeddings, by torch.compile."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch


@contextmanager
def fused(device: torch.device) -> Iterator[None]:
    """While it lasts, transformers' Qwen2 runs these functions compiled; on CUDA only.

    Where nothing can be compiled (no C compiler, no Triton) they run as they are.
    """
    if device.type != "cuda":
        yield
        return
    from transformers.models.qwen2 import modeling_qwen2 as qwen2

    torch._dynamo.config.suppress_errors = True  # fall back in place of ending the run
    compiled: Any = partial(torch.compile, dynamic=True)
    places = [(qwen2.Qwen2RMSNorm, "forward"), (qwen2.Qwen2MLP, "forward"), (qwen2, "apply_rotary_pos_emb")]
    plain = [getattr(owner, name) for owner, name in places]
    for (owner, name), function in zip(places, plain, strict=True):
        setattr(owner, name, compiled(function))
    try:
        yield
    finally:
        for (owner, name), function in zip(places, plain, strict=True):
            setattr(owner, name, function)
