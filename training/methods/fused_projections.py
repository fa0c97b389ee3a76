"""The language model's elementwise work in fewer kernels, by torch.compile: norms, activation, rotary embeddings."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from importlib import import_module
from typing import Any

import torch

from app.models.family import family_of


@contextmanager
def fused(model: Any, device: torch.device) -> Iterator[None]:
    """Within the context, transformers runs elementwise functions of ``model``'s class compiled; on CUDA only.

    Where nothing can be compiled (no C compiler, no Triton) they run as they are.
    """
    if device.type != "cuda":
        yield
        return
    language_model = family_of(model.config).language_model
    module = import_module(language_model.module)
    torch._dynamo.config.suppress_errors = True  # fall back in place of ending the run
    compiled: Any = partial(torch.compile, dynamic=True)
    places = [(getattr(module, owner) if owner else module, name) for owner, name in language_model.compiled]
    plain = [getattr(owner, name) for owner, name in places]
    for (owner, name), function in zip(places, plain, strict=True):
        setattr(owner, name, compiled(function))
    try:
        yield
    finally:
        for (owner, name), function in zip(places, plain, strict=True):
            setattr(owner, name, function)
