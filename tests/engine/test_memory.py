"""Which decoder a server takes, and what it says when it cannot have it."""

import importlib.util

import pytest
import torch

from app.engine.limits import EngineLimits
from app.engine.memory import use_fused
from app.errors import BadRequest

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


def limits(decoder: str) -> EngineLimits:
    return EngineLimits(1, 1, 1, 16, 64, 1, 1, decoder=decoder)


def test_the_fused_decoder_is_taken_on_cuda_with_triton(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    assert use_fused(limits("auto"), CUDA)
    assert not use_fused(limits("auto"), CPU)
    assert not use_fused(limits("modules"), CUDA)


def test_without_triton_it_is_refused_in_words(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert not use_fused(limits("auto"), CUDA)
    with pytest.raises(BadRequest, match="needs Triton"):
        use_fused(limits("fused"), CUDA)
