"""The plan of memory, against figures computed by hand, and the decoder that a server takes."""

import importlib.util
import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from app.engine import memory_costs
from app.engine.config import EngineConfig
from app.engine.memory import DoesNotFit, least_bytes, plan, plan_on, use_fused
from app.errors import BadRequest
from app.models.loading import describe
from app.models.shape import WEIGHTS, ModelShape, shape_from, shape_of, weight_bytes

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
GB, MIB = 10**9, 1 << 20
LIMITS = EngineConfig(
    max_resident=32, max_batch=64, max_queue=256, step_tokens=1024, max_context=8192, host_cache_bytes=1,
    encoder_cache_bytes=256 * MIB,
)  # fmt: skip


def limits(decoder: str) -> EngineConfig:
    return EngineConfig(1, 1, 1, 16, 64, 1, 1, decoder=decoder)


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


def test_layers_that_the_fused_pass_does_not_compute_take_the_modules():
    assert not use_fused(limits("auto"), CUDA, computable=False)
    with pytest.raises(BadRequest, match="does not compute this model's layers"):
        use_fused(limits("fused"), CUDA, computable=False)


@pytest.fixture(scope="module")
def seven() -> ModelShape:
    """Qwen2-Audio-7B's dimensions, from its configuration."""
    return shape_from("random:7b")


def test_the_dimensions_of_the_released_model(seven):
    assert seven.numbers == 8_397_094_912
    assert (seven.layers, seven.hidden, seven.intermediate, seven.vocabulary) == (32, 4096, 11008, 156032)
    assert (seven.clip_tokens, seven.window, seven.tower_width, seven.tower_inner) == (750, 1500, 1280, 5120)
    # by hand: q, k, v and o of 4096, gate, up and down; lm_head; the tower's; the projector
    layers = 32 * (4 * 2 * 4096 + 3 * (4096 + 11008))
    tower = 32 * (4 * 2 * 1280 + 2 * (1280 + 5120))
    assert seven.column_numbers == layers + (4096 + 156032) + tower + (1280 + 4096)


def test_weights_by_format(seven):
    """By hand: 6.48 and 0.64 billion numbers in layers and head; the other 1.28 billion stay in bfloat16."""
    layers, head = 32 * (4 * 4096 * 4096 + 3 * 4096 * 11008), 156032 * 4096
    outputs, rest = 32 * (5 * 4096 + 2 * 11008), 2 * (8_397_094_912 - layers - head)
    assert weight_bytes(seven, "bfloat16", 2) == 16_794_189_824
    for weights in ("float8", "int8"):
        assert weight_bytes(seven, weights, 2) == rest + layers + head + 4 * (outputs + 156032)
    groups = layers // 128  # each with a scale of two bytes and a zero point of one; the head takes int8
    assert weight_bytes(seven, "int4", 2) == rest + layers // 2 + 3 * groups + head + 4 * 156032


def test_every_part_of_a_plan_by_hand(seven):
    """24 GB in bfloat16: the level for 6 clients, since 8 would want 8192 tokens of KV cache."""
    found = plan(seven, LIMITS, torch.bfloat16, 24 * GB)
    level = found.level
    assert level is not None
    assert found.alone_tokens == found.parts["work"] // (2 * (8 * 4096 + 3 * 11008))
    assert (level.clients, level.max_batch, level.step_tokens, found.columns) == (6, 24, 1024, 128)
    parts = dict(found.parts)
    assert parts.pop("weights") == 16_794_189_824
    assert parts.pop("adapters") == 128 * 3_401_344 * 2
    assert parts.pop("encoder cache") == 6 * 16 * MIB
    assert parts.pop("plain PEFT") == (48 + 2 * 6 * 6) * MIB
    assert parts.pop("graphs") == (128 + 6 * 32) * MIB
    assert parts.pop("CUDA") == 900_000_000
    assert parts.pop("margin") == 300_000_000
    rows = 1024 + 48
    activations = rows * (3 * 4096 + 12288 + 2 * 4096 + 3 * 11008) * 2 + 24 * 156032 * 2
    floats = 1024 * 130 + 256 * 4096 + 8192 * 128
    indices = 26 * (128 + 128 + 4) + 8 * rows + 5 * 24
    assert parts.pop("buffers") == activations + 4 * (floats + indices)
    step = 1024 * (2 * 4096 + 3 * 128) * 2
    sampling = 24 * 156032 * 18 + 64 * 156032
    tower = 2 * ((2 * 3000 + 2 * 1500) * 1280 + 1500 * (9 * 1280 + 2 * 5120) + 1500**2) + 1500 * 3 * 4096
    projector = 16 * (1280 * 4096 + 4096)
    assert parts.pop("work") == step + sampling + tower * 2 + projector + 40 * (1 << 21) + (48 + 64) * MIB
    kv, audio = 2 * 32 * 4096 * 2, 4096 * 2
    left = 24 * GB - sum(found.parts[name] for name in found.parts if name not in ("KV cache", "audio"))
    tokens = (left // (kv + audio) - 1) // 64 * 64
    assert found.kv_tokens == tokens
    assert parts == {"KV cache": (tokens + 1) * kv, "audio": (tokens + 1) * audio}
    assert found.clients == tokens // 1024 == 6


def test_a_model_that_does_not_fit_is_refused_in_two_lines_with_what_helps(seven):
    with pytest.raises(DoesNotFit) as refused:
        plan(seven, LIMITS, torch.bfloat16, 16 * GB, given_by="free are")
    first, second = str(refused.value).splitlines()
    assert first == "random-7b in bfloat16 needs 19.9 GB here; free are 16.0."
    assert second == "OVERTONE_WEIGHTS=float8 needs 12.9 GB."
    with pytest.raises(DoesNotFit, match=r"\nOVERTONE_WEIGHTS=int4 needs 9\.8 GB\.$"):
        plan(seven, LIMITS, torch.bfloat16, 12 * GB)
    with pytest.raises(DoesNotFit, match=r"\nNo format of the weights fits: int4 needs the least, 9\.8 GB\.$"):
        plan(seven, LIMITS, torch.bfloat16, 8 * GB)
    with pytest.raises(DoesNotFit, match=r"with OVERTONE_KV_GB=8 needs .*\nWithout OVERTONE_KV_GB it needs 19\.9 GB"):
        plan(seven, LIMITS, torch.bfloat16, 24 * GB, kv_gb=8.0)


@pytest.mark.parametrize("weights", WEIGHTS)
def test_the_need_that_a_refusal_names_is_enough_and_no_more_than_that(seven, weights):
    needed = least_bytes(seven, LIMITS, weights, torch.bfloat16)
    assert plan(seven, LIMITS, torch.bfloat16, needed, weights=weights).clients == 1
    with pytest.raises(DoesNotFit) as refused:
        plan(seven, LIMITS, torch.bfloat16, needed - 1, weights=weights)
    assert refused.value.needed == needed


def test_a_card_that_is_free_is_used_and_a_cap_is_kept(seven, monkeypatch):
    """30 GB free, and 2 in PyTorch's reserve, of which other tensors hold 1.5; 17 GB of weights may be there too."""
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (30 * GB, 80 * GB))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 19 * GB)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 17 * GB + 3 * GB // 2)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())

    def cap(gpu_gb, held=0):
        return plan_on(CUDA, seven, None, LIMITS, torch.bfloat16, gpu_gb, held).cap

    ours = 30 * GB + GB // 2 + 600 * 10**6  # CUDA's own, which is taken already, is a part of every plan
    assert cap(None) == cap(99.0) == ours
    assert cap(None, held=17 * GB) == cap(99.0, held=17 * GB) == ours + 17 * GB
    assert cap(24.0) == cap(24.0, held=17 * GB) == 24 * GB
    with pytest.raises(DoesNotFit, match=r"OVERTONE_GPU_GB allows 16\.0"):
        cap(16.0)


def test_on_a_cpu_the_settings_hold_as_they_are(seven):
    found = plan(seven, LIMITS, torch.float32, None, kv_gb=3.0)
    assert 3 * GB - found.block_size * found.token_bytes < found.kv_bytes <= 3 * GB
    assert found.applied(LIMITS) == LIMITS
    assert found.most_columns is None


def test_a_cache_of_a_given_size_is_taken_at_its_word(seven):
    found = plan(seven, LIMITS, torch.bfloat16, 80 * GB, kv_gb=3.0)
    assert 3 * GB - found.block_size * found.token_bytes < found.kv_bytes <= 3 * GB
    assert found.most_columns > found.columns, "what the cache leaves is there for wider adapters"
    grown = (found.most_columns - found.columns) * 3_401_344 * 2
    assert found.total + grown <= 80 * GB
    with pytest.raises(BadRequest, match="no room"):
        plan(seven, LIMITS, torch.bfloat16, 80 * GB, kv_gb=1e-6)


def test_requests_that_no_longer_run_at_a_time_may_wait(seven):
    asked = plan(seven, LIMITS, torch.bfloat16, 20 * GB).applied(LIMITS)
    assert asked.max_batch == 4
    assert asked.max_batch + asked.max_queue == LIMITS.max_batch + LIMITS.max_queue


def other_shape(draw) -> ModelShape:
    """A model of any dimensions, as small and as lopsided as they come."""
    layers, heads, dim = draw(st.integers(1, 80)), draw(st.integers(1, 64)), draw(st.sampled_from([32, 64, 128]))
    hidden, inner, vocabulary = draw(st.integers(8, 8192)), draw(st.integers(8, 30000)), draw(st.integers(100, 200000))
    tower, window = draw(st.integers(8, 2048)), draw(st.sampled_from([100, 1500]))
    block = "model.language_model.layers.0"
    linears = {
        f"{block}.self_attn.q_proj": (heads * dim, hidden),
        f"{block}.mlp.up_proj": (layers * inner, hidden),
        "lm_head": (vocabulary, hidden),
        "model.audio_tower.layers.0.self_attn.q_proj": (tower, tower),
        "model.audio_tower.layers.0.fc1": (4 * tower, tower),
        "model.multi_modal_projector.linear": (hidden, tower),
    }
    return ModelShape(
        "other", {f"{path}.weight": shape for path, shape in linears.items()}, linears, hidden, inner, layers, heads,
        draw(st.integers(1, heads)), dim, vocabulary, 8192, window, window // 2, True,
    )  # fmt: skip


@st.composite
def cases(draw):
    asked = replace(
        LIMITS,
        max_resident=draw(st.integers(1, 300)),
        max_batch=draw(st.integers(1, 2000)),
        step_tokens=draw(st.integers(16, 8192)),
        max_context=draw(st.integers(64, 65536)),
        encoder_cache_bytes=draw(st.integers(0, 2**32)),
    )
    kind = draw(st.sampled_from([torch.bfloat16, torch.float16, torch.float32]))
    return other_shape(draw), asked, kind, draw(st.booleans()), draw(st.sampled_from(WEIGHTS))


def offered(shape, asked, kind, fused, weights, cap):
    """What a plan offers, all of which may only grow with the cap; nothing where there is none."""
    try:
        found = plan(shape, asked, kind, cap, fused=fused, weights=weights)
    except DoesNotFit:
        return (0,) * 7
    level = found.level
    assert found.total <= cap
    grown = (found.most_columns - found.columns) * shape.column_numbers * kind.itemsize
    assert found.total + grown <= cap
    assert found.kv_tokens > 0
    assert level.max_batch <= asked.max_batch
    assert level.step_tokens <= asked.step_tokens
    assert level.encoder_cache_bytes <= asked.encoder_cache_bytes
    return (
        found.kv_tokens, found.columns, level.max_batch, level.step_tokens, level.encoder_cache_bytes,
        level.graph_bytes, found.clients,
    )  # fmt: skip


@given(cases(), st.integers(1, 400 * GB), st.integers(0, 40 * GB))
@settings(deadline=None, max_examples=200)
def test_no_plan_exceeds_its_cap_and_a_larger_cap_never_offers_less(case, cap, more):
    smaller, larger = offered(*case, cap), offered(*case, cap + more)
    assert all(less <= great for less, great in zip(smaller, larger, strict=True)), (smaller, larger)


@given(cases())
@settings(deadline=None, max_examples=60)
def test_at_the_edge_of_a_level_nothing_shrinks(case):
    """Caps one byte apart, where the next level begins: the cap's steps are where a plan might take something back."""
    shape, asked, kind, fused, weights = case
    least = least_bytes(shape, asked, weights, kind, fused=fused)
    caps = [least]
    for level in memory_costs.levels(asked)[1:]:
        fixed = sum(memory_costs.fixed_bytes(shape, level, asked, weights, kind.itemsize, fused).values())
        tokens = min(level.clients * (shape.clip_tokens + 274), level.max_batch * min(asked.max_context, 8192))
        each = memory_costs.token_bytes(shape, kind.itemsize) + shape.hidden * kind.itemsize
        caps.append(fixed + (math.ceil(tokens / 64) * 64 + 1) * each)
    for cap in caps:
        before, after = offered(*case, cap - 1), offered(*case, cap)
        assert all(less <= great for less, great in zip(before, after, strict=True)), cap


def test_levels_grow_up_to_the_settings():
    found = memory_costs.levels(LIMITS)
    last = found[-1]
    assert (last.max_batch, last.step_tokens, last.columns, last.encoder_cache_bytes) == (64, 1024, 512, 256 * MIB)
    assert found[0].max_batch == 4
    assert memory_costs.levels(limits("auto"))[0].max_batch == 1


def test_the_shape_of_a_loaded_model_is_that_of_its_configuration(loaded):
    config = loaded.model.config
    from app.models.config import on_meta

    assert shape_of(config, loaded.spec) == shape_of(config, describe(on_meta(config), "random", "f"))


def tensors_of(*owners):
    """All tensors that objects hold in their fields, each once."""
    found = {}
    for owner in owners:
        for value in vars(owner).values():
            if isinstance(value, torch.Tensor):
                found[value.data_ptr()] = value
    return found


def test_the_decoder_allocates_what_the_plan_counts(loaded):
    """The fused decoder's own tensors on a CPU, without its kernels: as many bytes as planned, to a few hundredths."""
    pytest.importorskip("triton", reason="needs Triton; without a GPU its interpreter is enough")
    from app.engine.cuda.decoder import CudaDecoder
    from app.engine.kv_cache.paged_cache import PagedCache
    from tests.support import random_model

    model = random_model(hidden_size=256, intermediate_size=512, num_attention_heads=8, num_key_value_heads=4)
    shape = shape_of(model.model.config, model.spec)
    asked = replace(LIMITS, max_context=2048, max_batch=16)
    found = plan(shape, asked, torch.float32, 8 * GB)
    asked = found.applied(asked)
    cache = PagedCache(model.model.config.get_text_config(), found.blocks // 64, 64, CPU, torch.float32)
    decoder = CudaDecoder(model.model, cache, asked, found)
    decoder.stacks.reserve(found.columns)
    weights = {one.data_ptr() for one in [*model.model.parameters(), *model.model.buffers(), cache.keys, cache.values]}
    held = tensors_of(decoder, decoder._model, decoder.stacks)
    buffers = sum(one.nbytes for pointer, one in held.items() if pointer not in weights)
    assert 0.9 * found.parts["buffers"] < buffers <= found.parts["buffers"]
    stacks = sum(one.nbytes for group in decoder.stacks.groups.values() for one in group.tensors)
    layers = sum(sum(one) for path, one in shape.linears.items() if ".language_model.layers." in path)
    assert stacks == found.columns * layers * 4 <= found.parts["adapters"]
    each = 2 * 3 * 4 * 32 * 4  # keys and values of three layers, four heads of 32
    assert found.token_bytes == each
    assert cache.keys.nbytes + cache.values.nbytes == (found.blocks // 64 * 64 + 1) * each
