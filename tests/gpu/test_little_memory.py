"""Cards with little memory: adapters by turns in what there is, and a plan that holds, in every format of weights."""

import gc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from app.engine.config import EngineConfig
from app.engine.engine import Engine
from app.engine.memory import plan_memory
from app.quantization.formats import FORMATS
from app.registry.local import LocalRegistry
from tests.gpu.test_full_size import Job, ask, build, generate, peft_over
from tests.support import LM, make_adapter

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
GB = 10**9
NEW = 3


@pytest.fixture
def card(monkeypatch: Any) -> Iterator[Any]:
    """Makes a card of so many bytes of this one, in what PyTorch may take and in what it is told is free."""
    total = torch.cuda.get_device_properties(0).total_memory

    gc.collect()  # engines of earlier tests
    torch.cuda.empty_cache()

    def make(size: int) -> None:
        torch.cuda.empty_cache()
        torch.cuda.set_per_process_memory_fraction(size / total)
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda *_: (max(0, size - torch.cuda.memory_reserved()), size))

    yield make
    torch.cuda.set_per_process_memory_fraction(1.0)
    torch.cuda.empty_cache()


def limits(**asked: Any) -> EngineConfig:
    defaults: dict[str, Any] = dict(
        max_resident=4, max_batch=4, max_queue=64, step_tokens=256, max_context=1024, host_cache_bytes=1 << 32,
        encoder_cache_bytes=1 << 24,
    )  # fmt: skip
    return EngineConfig(**(defaults | asked))


def test_more_columns_than_there_is_memory_for(tmp_path: Path, card: Any, monkeypatch: Any) -> None:
    """Three adapters of rank 64 where 64 columns were planned and no more fit: all are served, each as by PEFT."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    loaded = build(14, torch.float32)
    from app.engine.lora.peft_fallback import shell_of

    peft_base = shell_of(loaded.model)
    folders = {
        f"wide-{seed}": make_adapter(
            loaded, tmp_path / f"wide-{seed}", seed, r=64, lora_alpha=64, std=0.02, target_modules=LM + r"\w+_proj"
        )
        for seed in range(3)
    }
    registry = LocalRegistry(tmp_path / "registry", loaded.spec, max_rank=64, keep_versions=2)
    registry.open()
    adapters = {name: registry.publish(folder, name) for name, folder in folders.items()}
    engine = Engine(loaded, registry, limits(), plan_memory(loaded, 2.0, limits()))
    engine.start()
    try:
        stacks = engine.runner.decoder.stacks  # type: ignore[attr-defined]
        torch.cuda.reset_peak_memory_stats()
        ask(engine, loaded, [Job(clip, None, NEW) for clip in range(4)])  # as many at a time as below
        activations = torch.cuda.max_memory_allocated() - torch.cuda.memory_allocated()
        spare = activations + 8 * stacks.column_bytes()
        assert spare < 60 * stacks.column_bytes(), "a second adapter of 64 columns would fit"
        torch.cuda.empty_cache()  # or what is cached counts as reserved, and is there for more columns
        card(torch.cuda.memory_reserved() + spare)
        jobs = [Job(seed, adapter, NEW) for seed, adapter in enumerate(adapters.values())]
        answers = ask(engine, loaded, [*jobs, *jobs])
        assert stacks.columns == 64
    finally:
        engine.close()
    torch.cuda.set_per_process_memory_fraction(1.0)
    peft = peft_over(peft_base, folders)
    for job, answer in zip([*jobs, *jobs], answers, strict=True):
        peft.set_adapter(job.adapter.name, inference_mode=True)
        assert generate(peft, loaded, job.clip, NEW)[0, -NEW:].tolist() == answer, job


@pytest.mark.parametrize("weights", ["bfloat16", *FORMATS])
def test_the_plan_holds(tmp_path: Path, card: Any, weights: Any) -> None:
    """What it leaves is enough to start, to warm up and to answer with every seat taken."""
    loaded = build(8, torch.bfloat16, weights)
    card(torch.cuda.memory_reserved() + 6 * GB)
    asked = limits(max_resident=32, max_batch=64, step_tokens=1024, max_context=4096)
    registry = LocalRegistry(tmp_path / "registry", loaded.spec, max_rank=64, keep_versions=2)
    registry.open()
    plan = plan_memory(loaded, None, asked)
    engine = Engine(loaded, registry, plan.applied(asked), plan)
    engine.start()
    try:
        answers = ask(engine, loaded, [Job(clip, None, 4) for clip in range(16)])
    finally:
        engine.close()
    assert len(answers) == 16
    print(f"\n{weights}: {plan}; {torch.cuda.max_memory_reserved() / GB:.2f} GB at most")  # noqa: T201


@pytest.mark.parametrize("weights", FORMATS)
def test_loading_takes_the_final_size_and_a_piece(tmp_path: Path, weights: Any) -> None:
    """A checkpoint of four 7B layers, quantised while it is loaded: at most one layer in bfloat16 beyond the end."""
    from app.models.loading import load
    from app.models.weights.at_rest import weights_bytes

    whole = build(4, torch.bfloat16)
    whole.model.save_pretrained(str(tmp_path))
    whole.processor.save_pretrained(str(tmp_path))
    config = whole.model.config
    del whole
    gc.collect()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    loaded = load(str(tmp_path), torch.device("cuda"), torch.bfloat16, weights)
    size = torch.cuda.memory_allocated() - before
    peak = torch.cuda.max_memory_allocated() - before
    told = weights_bytes(config, weights, torch.bfloat16)
    assert told <= size < told * 1.01
    layer = 2 * (4 * 4096 * 4096 + 3 * 4096 * 11008)
    print(f"\n{weights}: {size / GB:.2f} GB, {(peak - size) / GB:.2f} GB more while loading")  # noqa: T201
    assert peak - size < layer
    assert loaded.spec.weights == weights
