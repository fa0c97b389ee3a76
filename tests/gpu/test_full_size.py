"""Real dimensions on a CUDA device: 4 layers of the 7B model in float32, and the whole of it in bfloat16."""

import queue
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch

from app.bench.workload import make_clip, make_prompt, write_adapters
from app.engine.config import EngineConfig
from app.engine.engine import Engine
from app.engine.lora.peft_fallback import shell_of
from app.engine.memory import plan_memory
from app.engine.request import Done, LoRAWeight, Request, Token
from app.engine.sampling_params import SamplingParams
from app.models.loading import LoadedModel
from app.models.qwen2_audio import QWEN2_AUDIO
from app.models.weights.random_weights import random_weights
from app.registry.local import LocalRegistry
from app.settings import EMBEDDED_MODEL

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
LIMITS = EngineConfig(
    max_resident=32,
    max_batch=64,
    max_queue=256,
    step_tokens=2048,
    max_context=4096,
    host_cache_bytes=1 << 30,
    encoder_cache_bytes=1 << 28,
)
NEW = 12
DEVICE = "cuda"


def build(layers: int, dtype: torch.dtype, weights: Any = "bfloat16") -> LoadedModel:
    """The 7B dimensions with so many layers; larger random weights, so that answers differ."""
    full = QWEN2_AUDIO.sizes["7b"]
    smaller = replace(full, text={**full.text, "num_hidden_layers": layers})
    torch.manual_seed(0)
    with patch.dict(QWEN2_AUDIO.sizes, {"test": smaller}):
        return random_weights("test", str(EMBEDDED_MODEL), torch.device(DEVICE), dtype, weights)


def engine_over(loaded: LoadedModel, root: Path) -> tuple[Engine, dict[str, Any], dict[str, Path]]:
    folders = write_adapters(loaded, root / "made", 8)
    registry = LocalRegistry(root / "registry", loaded.spec, max_rank=64, keep_versions=2)
    registry.open()
    adapters = {name: registry.publish(folder, name) for name, folder in folders.items()}
    engine = Engine(loaded, registry, LIMITS, plan_memory(loaded, 8.0, LIMITS))
    return engine, adapters, folders


@dataclass(frozen=True)
class Job:
    """A clip, an adapter (none: the base), and how many tokens the answer has."""

    clip: int
    adapter: Any
    new: int = NEW


def ask(engine: Engine, loaded: LoadedModel, jobs: list[Job], pause: Callable[[], float] = lambda: 0.0) -> Any:
    """The tokens of each answer; ``pause`` seconds lie between two requests."""
    queues = []
    for job in jobs:
        clip = make_clip(loaded, job.clip)
        events: queue.Queue[Any] = queue.Queue()
        lora_weights = (LoRAWeight(job.adapter),) if job.adapter else ()
        sampling = SamplingParams(max_new_tokens=job.new, ignore_eos=True)
        engine.submit(Request(tuple(make_prompt(loaded, clip)), (clip,), lora_weights, sampling, events.put))
        queues.append(events)
        time.sleep(pause())
    answers = []
    for events in queues:
        tokens: list[int] = []
        while not isinstance(event := events.get(timeout=120), Done):
            assert isinstance(event, Token), event
            tokens += [] if event.id is None else [event.id]
        answers.append(tokens)
    return answers


@torch.inference_mode()
def generate(model: Any, loaded: LoadedModel, index: int, new: int = NEW, **options: Any) -> Any:
    clip = make_clip(loaded, index)
    ids = torch.tensor([make_prompt(loaded, clip)], device=DEVICE)
    mel = clip.mel[None].to(DEVICE)
    return model.generate(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        input_features=mel,
        feature_attention_mask=torch.ones(1, mel.shape[2], dtype=torch.long, device=DEVICE),
        max_new_tokens=new,
        min_new_tokens=new,
        do_sample=False,
        pad_token_id=0,
        **options,
    )


def peft_over(model: Any, folders: dict[str, Path]) -> Any:
    from peft import PeftModel

    names = list(folders)
    peft = PeftModel.from_pretrained(model, str(folders[names[0]]), adapter_name=names[0], autocast_adapter_dtype=False)
    for name in names[1:]:
        peft.load_adapter(str(folders[name]), name, autocast_adapter_dtype=False)
    return peft.eval()


def test_four_layers_in_float32_give_peft_s_token_ids_whatever_joins_and_leaves(tmp_path, monkeypatch):
    """64 requests over 8 adapters and the base, some at once, some later, of many lengths; free pages hold NaN.

    Without TF32, in which cuDNN computes the tower's convolutions by default: two logits may lie closer than its error.
    """
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    loaded = build(4, torch.float32)
    plain, peft_base = shell_of(loaded.model), shell_of(loaded.model)
    engine, adapters, folders = engine_over(loaded, tmp_path)
    draw = random.Random(0)
    jobs = [Job(clip, draw.choice([None, *adapters.values()]), draw.randint(2, NEW)) for clip in range(64)]

    def poison() -> None:
        cache = engine.runner.cache
        cache.keys[:, : cache.null] = cache.values[:, : cache.null] = float("nan")

    engine.start()
    try:
        engine.call(poison).result()
        answers = ask(engine, loaded, jobs, lambda: draw.choice([0.0, 0.0, 0.02, 0.1]))
    finally:
        engine.close()
    peft = peft_over(peft_base, folders)
    for job, answer in zip(jobs, answers, strict=True):
        if job.adapter:
            peft.set_adapter(job.adapter.name, inference_mode=True)
        output = generate(peft if job.adapter else plain, loaded, job.clip, job.new)
        assert output[0, -job.new :].tolist() == answer, job
    assert len({tuple(answer) for answer in answers}) > 32


def test_all_layers_in_bfloat16_are_as_near_to_transformers_as_it_is_to_itself(tmp_path, capsys):
    """Logits of the first steps, all adapters in one batch, against PEFT alone; beside PEFT's own batch."""
    loaded = build(32, torch.bfloat16)
    peft_base = shell_of(loaded.model)
    engine, adapters, folders = engine_over(loaded, tmp_path)
    seen: dict[str, list[torch.Tensor]] = {name: [] for name in adapters}
    step = engine.runner._logits

    def spy(chunks: list[Any]) -> torch.Tensor:
        logits = step(chunks)
        for chunk, row in zip([c for c in chunks if c.final], logits, strict=True):
            seen[chunk.sequence.request.lora_weights[0].adapter.name].append(row.float().clone())
        return logits

    engine.runner._logits = spy  # type: ignore[method-assign]
    engine.start()
    try:
        ask(engine, loaded, [Job(index, adapter) for index, adapter in enumerate(adapters.values())])
    finally:
        engine.close()
    peft = peft_over(peft_base, folders)
    ours, own, effect = [], [], []
    batch = step_logits(peft, loaded, list(range(8)), adapter_names=list(adapters))
    with peft.disable_adapter():
        base = step_logits(peft, loaded, [0])
    for index, name in enumerate(adapters):
        peft.set_adapter(name, inference_mode=True)
        alone = step_logits(peft, loaded, [index])
        ours += errors(seen[name], [row[0] for row in alone])
        own += errors([row[index] for row in batch], [row[0] for row in alone])
        if index == 0:
            effect += errors([row[0] for row in base], [row[0] for row in alone])
    with capsys.disabled():
        print(  # noqa: T201, the figure is the point
            f"\nlogits, relative error to PEFT alone: engine {max(ours):.2e} over {len(ours)} steps, "
            f"PEFT's batch {max(own):.2e} over {len(own)}; an adapter's effect {effect[0]:.2e}"
        )
    assert effect[0] > 10 * max(ours)
    assert max(ours) < 2 * max(own) + 1e-3


def errors(one: list[torch.Tensor], other: list[torch.Tensor]) -> list[float]:
    """Relative errors step by step, as long as both chose the same tokens before."""
    found = []
    for mine, theirs in zip(one, other, strict=True):
        found.append(float((mine - theirs).norm() / theirs.norm()))
        if mine.argmax() != theirs.argmax():
            break
    return found


@torch.inference_mode()
def step_logits(model: Any, loaded: LoadedModel, indices: list[int], **options: Any) -> list[torch.Tensor]:
    """Logits [rows, vocabulary] of each step of `generate`."""
    clips = [make_clip(loaded, index) for index in indices]
    ids = torch.tensor([make_prompt(loaded, clip) for clip in clips], device=DEVICE)
    mel = torch.stack([clip.mel for clip in clips]).to(DEVICE)
    output = model.generate(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        input_features=mel,
        feature_attention_mask=torch.ones(len(clips), mel.shape[2], dtype=torch.long, device=DEVICE),
        max_new_tokens=NEW,
        min_new_tokens=NEW,
        do_sample=False,
        pad_token_id=0,
        return_dict_in_generate=True,
        output_logits=True,
        **options,
    )
    return [step.float() for step in output.logits]
