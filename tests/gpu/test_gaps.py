"""Streams that run while adapters on projections that nobody has used arrive, and fill the columns from cold."""

import gc
import itertools
import queue
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from app.engine.engine import Engine
from app.engine.lora.peft_fallback import shell_of
from app.engine.memory import plan_memory
from app.engine.request import Done, Failed, LoRAWeight, Request, Token
from app.engine.sampling_params import SamplingParams
from app.registry.local import LocalRegistry
from app.service.service import freeze_gc_heap
from tests.gpu.test_full_size import LIMITS, build
from tests.support import LM

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
ALL = LM + r"\w+_proj"
ARRIVING = [
    ("o_proj", 8), ("down_proj", 16), ("lm_head", 8), ("all", 16), ("all", 64), ("all", 16), ("gate_proj", 32),
    ("all", 64), ("all", 64), ("all", 8), ("q_proj", 64), ("all", 32),
]  # fmt: skip
STREAMS, PAUSE = 8, 0.35  # s between two that arrive


def make(loaded: Any, folder: Path, seed: int, pattern: str, rank: int) -> Path:
    """An adapter as PEFT writes it, over the model's own tensors."""
    from peft import LoraConfig, get_peft_model

    lora = LoraConfig(r=rank, lora_alpha=rank, target_modules=pattern)
    model = get_peft_model(shell_of(loaded.model), lora, autocast_adapter_dtype=False)
    torch.manual_seed(seed)
    for path, parameter in model.named_parameters():
        if "lora_" in path:
            parameter.data = 0.01 * torch.randn_like(parameter)
    model.save_pretrained(str(folder), save_embedding_layers=False)
    return folder


def gaps_of(engine: Engine, arriving: list[Any], prompt: tuple[int, ...]) -> list[float]:
    """Times between two tokens of each of the `STREAMS`, in ms, from the first arrival to the last answer."""
    times: list[list[float]] = [[] for _ in range(STREAMS)]
    ends: queue.SimpleQueue[Any] = queue.SimpleQueue()

    def stream(index: int) -> Any:
        def emit(event: Any) -> None:
            if isinstance(event, Token) and event.id is not None:
                times[index].append(time.perf_counter())

        return emit

    forever = SamplingParams(max_new_tokens=3000, ignore_eos=True)
    running = [Request(prompt, (), (), forever, stream(index)) for index in range(STREAMS)]
    for request in running:
        engine.submit(request)
    while min(map(len, times)) < 20:
        time.sleep(0.01)
    begun = time.perf_counter()
    for adapter in arriving:
        short = SamplingParams(max_new_tokens=24, ignore_eos=True)
        engine.submit(
            Request(
                prompt,
                (),
                (LoRAWeight(adapter),),
                short,
                lambda e: ends.put(e) if isinstance(e, Done | Failed) else None,
            )
        )
        time.sleep(PAUSE)
    for _ in arriving:
        assert isinstance(ends.get(timeout=60), Done)
    until = time.perf_counter()
    for request in running:
        engine.cancel(request.id)
    return [
        1e3 * (later - earlier)
        for each in times
        for earlier, later in itertools.pairwise(each)
        if begun < later <= until
    ]


def test_no_stream_waits_a_tenth_of_a_second(tmp_path: Path, capsys: Any) -> None:
    loaded = build(32, torch.bfloat16)
    folders = []
    for seed, (target, rank) in enumerate(ARRIVING):
        pattern = ALL if target == "all" else target if target == "lm_head" else LM + target
        folder = tmp_path / f"{seed}-{rank}"
        folders.append(make(loaded, folder, seed, pattern, rank))
    registry = LocalRegistry(tmp_path / "registry", loaded.spec, max_rank=64, keep_versions=2)
    registry.open()
    adapters = [registry.publish(folder, f"arrives-{index}") for index, folder in enumerate(folders)]
    engine = Engine(loaded, registry, LIMITS, plan_memory(loaded, 8.0, LIMITS))
    begun = time.perf_counter()
    engine.start()
    started = time.perf_counter() - begun
    free = [f"{len(engine.runner.decoder._graphs)} graphs: {torch.cuda.mem_get_info()[0] >> 20} MiB free"]  # type: ignore[attr-defined]
    try:
        freeze_gc_heap()  # as a server does, like the next line
        torch.set_num_threads(1)
        found = [sorted(gaps_of(engine, adapters, tuple(range(3, 43)))) for _ in range(2)]
        while engine.runner.decoder._graphs._wanted:  # type: ignore[attr-defined]
            time.sleep(0.05)
        free.append(f"{len(engine.runner.decoder._graphs)} graphs: {torch.cuda.mem_get_info()[0] >> 20} MiB free")  # type: ignore[attr-defined]
    finally:
        gc.unfreeze()
        engine.close()
    with capsys.disabled():
        for what, gaps in zip(("from cold", "again"), found, strict=True):
            print(  # noqa: T201, the figure is the point
                f"\ngaps of {STREAMS} streams while {len(adapters)} adapters arrive, {what}: median "
                f"{gaps[len(gaps) // 2]:.1f}, p99 {gaps[int(0.99 * len(gaps))]:.1f}, longest {gaps[-1]:.1f} ms"
            )
        graphs = len(engine.runner.decoder._graphs)  # type: ignore[attr-defined]
        print(f"started in {started:.1f} s; {graphs} graphs; {free}")  # noqa: T201
    assert found[0][-1] < 100
