"""7B on cards of 24, 16 and 12 GB: a ballast takes the rest of this card, and everything that is asked is served.

One engine for each format of the weights, on the card that it has to fit. Each prints a row of the table:
`pytest -s tests/gpu/test_caps.py`. OVERTONE_CAPS="bfloat16:21,int8:14,int4:10" tries other caps.
"""

import gc
import inspect
import json
import os
import queue
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from app.audio.decode import Limits
from app.bench.workload import make_clip, make_prompt
from app.engine.config import EngineConfig
from app.engine.engine import Engine
from app.engine.memory import plan_memory
from app.engine.request import Done, Failed, LoRAWeight, Request
from app.engine.sampling_params import SamplingParams
from app.models.device_memory import left_bytes
from app.models.layout import LAYERS
from app.models.loading import LoadedModel
from app.models.prompt import PromptRenderer
from app.models.shape import shape_of
from app.models.training_memory import STATE
from app.models.weights.random_weights import random_weights
from app.registry.local import LocalRegistry
from app.settings import EMBEDDED_MODEL
from training.audio_features import AudioFeatures
from training.bench import _rows
from training.events import Events
from training.examples import make_examples
from training.methods.forward import Forward
from training.methods.fused_projections import fused
from training.methods.peft_model import Adapted
from training.micro_batches import plan_micro_batches
from training.options import TrainOptions
from training.trainer import Trainer

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
GB = 10**9
CAPS = {"bfloat16": 24.0, "float8": 16.0, "int8": 16.0, "int4": 12.0}
NEW = 32
ADAPTERS, RANK = 32, 16
LIMITS = EngineConfig(
    max_resident=32, max_batch=64, max_queue=256, step_tokens=1024, max_context=8192, host_cache_bytes=1 << 33,
    encoder_cache_bytes=256 << 20,
)  # fmt: skip


def asked() -> list[tuple[str, float]]:
    """Formats that this release loads, with their caps in 10^9 bytes."""
    caps = dict(one.split(":") for one in os.environ.get("OVERTONE_CAPS", "").split(",") if one)
    known = list(CAPS) if "weights" in inspect.signature(random_weights).parameters else ["bfloat16"]
    return [(weights, float(caps.get(weights, CAPS[weights]))) for weights in known if not caps or weights in caps]


def load(weights: str) -> LoadedModel:
    """7B at random in a format."""
    make: Callable[..., LoadedModel] = random_weights
    options = {} if weights == "bfloat16" else {"weights": weights}
    return make("7b", str(EMBEDDED_MODEL), torch.device("cuda"), torch.bfloat16, **options)


def write_adapter(loaded: LoadedModel, folder: Path) -> Path:
    """An adapter of rank 16 on every projection of the language model's layers, in PEFT's files."""
    folder.mkdir()
    drawn = torch.Generator().manual_seed(0)
    tensors = {}
    for path, (outputs, inputs) in loaded.spec.linears.items():
        if path.startswith(f"{LAYERS}."):
            for name, shape in (("lora_A", (RANK, inputs)), ("lora_B", (outputs, RANK))):
                key = f"base_model.model.{path}.{name}.weight"
                tensors[key] = (0.02 * torch.randn(shape, generator=drawn)).bfloat16()
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    targets = sorted({path.rpartition(".")[2] for path in loaded.spec.linears if path.startswith(f"{LAYERS}.")})
    config = {"peft_type": "LORA", "r": RANK, "lora_alpha": RANK, "target_modules": targets, "task_type": "CAUSAL_LM"}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder


@contextmanager
def card(size: float) -> Iterator[list[int]]:
    """A card of ``size`` · 10^9 bytes made of this one, libraries and CUDA itself included; the fewest bytes free."""
    gc.collect()
    torch.cuda.empty_cache()
    free, total = torch.cuda.mem_get_info()
    left = int(size * GB) - (total - free)
    assert left > 0, f"{(total - free) / GB:.1f} GB are taken before there is an engine"
    ballast = torch.empty(free - left, dtype=torch.uint8, device="cuda")
    fewest, over = [left], threading.Event()

    def watch() -> None:
        while not over.wait(0.02):
            fewest[0] = min(fewest[0], torch.cuda.mem_get_info()[0])

    watching = threading.Thread(target=watch)
    watching.start()
    try:
        yield fewest
    finally:
        over.set()
        watching.join()
        del ballast
        torch.cuda.empty_cache()


@dataclass
class Served:
    """What came of a number of requests."""

    errors: list[str] = field(default_factory=list)
    tokens: int = 0
    seconds: float = 0.0


def serve(engine: Engine, loaded: LoadedModel, names: list[Any], clients: int, rounds: int) -> Served:
    """``clients`` that ask ``rounds`` times each, one answer after the other, every time another adapter and clip."""
    found, lock = Served(), threading.Lock()

    def client(number: int) -> None:
        for turn in range(rounds):
            clip = make_clip(loaded, 1000 * turn + number)
            adapter = names[(number + turn * clients) % len(names)]
            events: queue.Queue[Any] = queue.Queue()
            sampling = SamplingParams(max_new_tokens=NEW, ignore_eos=True)
            prompt = tuple(make_prompt(loaded, clip))
            engine.submit(Request(prompt, (clip,), (LoRAWeight(adapter),), sampling, events.put))
            while not isinstance(event := events.get(timeout=300), Done | Failed):
                pass
            with lock:
                if isinstance(event, Failed):
                    found.errors.append(f"{event.error.code}: {event.error}")
                else:
                    found.tokens += event.completion_tokens

    threads = [threading.Thread(target=client, args=(number,)) for number in range(clients)]
    began = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found.seconds = time.monotonic() - began
    return found


@pytest.mark.parametrize(("weights", "cap"), asked())
def test_everything_is_served_within_the_cap(tmp_path: Path, weights: str, cap: float) -> None:
    loaded = load(weights)
    folder = write_adapter(loaded, tmp_path / "made")
    registry = LocalRegistry(tmp_path / "registry", loaded.spec, max_rank=64, keep_versions=2)
    registry.open()
    adapters = [registry.publish(folder, f"a{index}") for index in range(ADAPTERS)]
    with card(cap) as fewest:
        plan = plan_memory(loaded, None, LIMITS, cap)
        engine = Engine(loaded, registry, plan.applied(LIMITS), plan)
        began = time.monotonic()
        engine.start()
        started, warm = time.monotonic() - began, torch.cuda.mem_get_info()[0]
        engine.fingerprint().result()
        try:
            few = serve(engine, loaded, adapters[:8], clients=8, rounds=2)
            many = serve(engine, loaded, adapters, clients=16, rounds=3)
        finally:
            engine.close()
    reserved = torch.cuda.max_memory_reserved()
    rows = [
        f"| {weights} | {cap:g} | {clients} x {count} | {len(one.errors)} | {one.tokens / one.seconds:.0f} |"
        for clients, count, one in ((8, 8, few), (16, ADAPTERS, many))
    ]
    told = (
        f"planned {plan.total / GB:.2f} GB, taken at most {cap - fewest[0] / GB:.2f}, when warm {cap - warm / GB:.2f}; "
        f"warm after {started:.0f} s; {plan.clients} clients planned, {plan.columns} columns"
    )
    head = "| weights | cap GB | clients x adapters | errors | tokens/s |"
    print("\n" + "\n".join([head, *rows, told]))  # noqa: T201
    torch.cuda.reset_peak_memory_stats()
    assert reserved > 0
    assert not few.errors
    assert not many.errors
    assert fewest[0] > 0


@pytest.mark.parametrize(("cap", "words"), [(16.0, "needs"), (12.0, "needs")])
def test_a_card_too_small_is_refused_before_anything_is_loaded(cap: float, words: str) -> None:
    from app.engine.memory import DoesNotFit
    from app.service.service import Service
    from app.settings import Settings

    held = torch.cuda.memory_allocated()
    with pytest.raises(DoesNotFit, match=words) as refused:
        Service.open(Settings(model="random:7b", gpu_gb=cap, _env_file=None))  # type: ignore[call-arg]
    assert len(str(refused.value).splitlines()) == 2
    assert torch.cuda.memory_allocated() == held


def train(loaded: LoadedModel, root: Path, clips: int, cap: float, steps: int = 2) -> tuple[Any, float]:
    """Steps of LoRA training, rank 8 on q and v, ``clips`` of 30 s in each: its plan, and seconds per step."""
    audio_features = AudioFeatures(loaded, Limits(3600, 1 << 30), root)
    examples = make_examples(_rows(root, 30.0, clips), audio_features, PromptRenderer(loaded.processor))
    options = TrainOptions(data="-", name="x", batch=clips, dropout=0, learning_rate=1e-4)
    adapted = Adapted(loaded, options)
    forward = Forward(loaded.model, audio_features)
    left = left_bytes(loaded.device, cap) or 0
    left -= STATE * sum(parameter.numel() for parameter in adapted.trainable.values())
    weights = getattr(loaded.spec, "weights", "bfloat16")
    planned = plan_micro_batches(
        shape_of(loaded.model.config, loaded.spec), examples, options.micro_tokens, left,
        itemsize=loaded.dtype.itemsize, weights=weights,
    )  # fmt: skip
    seen: list[Any] = []
    trainer = Trainer(
        adapted, forward, examples, examples, options, Events([seen.append]), root / "checkpoint", planned=planned
    )
    began = time.monotonic()
    with fused(loaded.model, loaded.device):
        for _ in range(steps):
            trainer.step(examples)
    seconds = (time.monotonic() - began) / steps
    adapted.unload()
    assert len(seen) <= 1, "memory ended, in spite of the plan"
    return planned, seconds


@pytest.mark.parametrize("clips", [1, 8])
@pytest.mark.parametrize(("weights", "cap"), asked())
def test_an_adapter_is_trained_within_the_cap(tmp_path: Path, weights: str, cap: float, clips: int) -> None:
    loaded = load(weights)
    with card(cap) as fewest:
        planned, seconds = train(loaded, tmp_path, clips, cap)
    print(  # noqa: T201
        f"\n| training {weights} | {cap:g} | {clips} clips | {planned.tokens} tokens at a time, checkpointing "
        f"{planned.checkpointing} | {seconds:.2f} s per step | taken at most {cap - fewest[0] / GB:.2f} |"
    )
