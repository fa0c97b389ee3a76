"""How memory is divided; which decoder a server takes, and what it says when it cannot have it."""

import importlib.util
import math
from types import SimpleNamespace

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from app.engine.limits import EngineLimits
from app.engine.memory import plan_memory, use_fused
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


# Qwen2-Audio-7B's language model: 32 layers of width 4096 and 11008 within, and its head
LINEARS = {
    f"model.language_model.layers.{layer}.{name}": shape
    for layer in range(32)
    for name, shape in {
        **{f"self_attn.{part}_proj": (4096, 4096) for part in "qkvo"},
        **{f"mlp.{part}_proj": (11008, 4096) for part in ("gate", "up")},
        "mlp.down_proj": (4096, 11008),
    }.items()
} | {"lm_head": (156032, 4096), "model.audio_tower.layers.0.fc1": (5120, 1280)}
GB = 10**9


def plan(monkeypatch, free, kv_gb=None, device=CUDA, **asked):
    """The plan for 7B in bfloat16 on a device with ``free`` bytes beside the weights."""
    defaults = dict(
        max_resident=32, max_batch=64, max_queue=1, step_tokens=1024, max_context=4096, host_cache_bytes=1,
        encoder_cache_bytes=256 << 20,
    )  # fmt: skip
    config = SimpleNamespace(
        hidden_size=4096, intermediate_size=11008, vocab_size=156032, num_hidden_layers=32, num_key_value_heads=32,
        num_attention_heads=32,
    )  # fmt: skip
    loaded = SimpleNamespace(
        model=SimpleNamespace(config=SimpleNamespace(get_text_config=lambda: config), parameters=lambda: []),
        spec=SimpleNamespace(linears=LINEARS), device=device, dtype=torch.bfloat16,
    )  # fmt: skip
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free, 2 * free))
    return plan_memory(loaded, kv_gb, EngineLimits(**(defaults | asked)))


def test_the_plan_leaves_room_for_everything_else(monkeypatch):
    """By hand: 512 columns of 78,080 · 32 numbers, activations, the encoder's cache, a margin of 1 GiB."""
    slots = 512 * 32 * (4 * 8192 + 3 * 15104) * 2
    buffers = (1024 * (10 * 4096 + 3 * 11008) + 3 * 64 * 156032) * 4
    found = plan(monkeypatch, 20 * GB)
    assert found.slot_bytes == slots
    room = 20 * GB - slots - buffers - (256 << 20) - (1 << 30)
    page = 64 * 2 * 32 * 32 * 128 * 2
    assert room - page < found.kv_bytes <= room


def test_float8_keeps_room_for_its_copies_and_for_making_them(monkeypatch):
    """A byte for each weight, four for each output, and three float32 copies of the part that is being made."""
    weights = 32 * (4 * 4096 * 4096 + 3 * 4096 * 11008) + 156032 * 4096
    outputs = 32 * (5 * 4096 + 2 * 11008) + 156032
    full, small = (plan(monkeypatch, 40 * GB, weights=kind) for kind in ("full", "float8"))
    page = full.page_size * full.token_bytes
    assert full.kv_bytes - small.kv_bytes == pytest.approx(weights + 4 * outputs + 3 * 4 * (1 << 24), abs=page)


@given(
    free=st.integers(1, 140 * GB), residents=st.integers(1, 64), batch=st.integers(1, 256),
    tokens=st.integers(16, 4096), weights=st.sampled_from(["full", "float8"]),
)  # fmt: skip
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_plan_takes_more_than_there_is(monkeypatch, free, residents, batch, tokens, weights):
    asked = dict(max_resident=residents, max_batch=batch, step_tokens=tokens, weights=weights)
    try:
        found = plan(monkeypatch, free, **asked)
    except BadRequest:  # which says so
        return
    smaller = sum(math.prod(shape) for path, shape in LINEARS.items() if "tower" not in path)
    needed = found.kv_bytes + found.slot_bytes + (1 << 30) + (256 << 20) + (smaller if weights == "float8" else 0)
    assert 0 < found.kv_bytes < free
    assert needed < free


def test_a_cache_of_a_given_size_is_taken_at_its_word(monkeypatch):
    for device in (CPU, CUDA):
        found = plan(monkeypatch, 20 * GB, kv_gb=3.0, device=device)
        assert 3 * GB - found.page_size * found.token_bytes < found.kv_bytes <= 3 * GB
    with pytest.raises(BadRequest, match="no room"):
        plan(monkeypatch, 20 * GB, kv_gb=1e-6)
