"""Training speed: this trainer beside a plain loop of transformers and PEFT, on the same weights and clips."""

import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.table import Table

from app.audio.decode import Limits
from app.models.features import FeatureExtractor
from app.models.loading import LoadedModel, load, pick_dtype
from app.models.prompt import PromptRenderer
from app.models.weights.random_weights import random_weights
from app.settings import Settings
from training.audio_features import AudioFeatures
from training.data.rows import Row, Sound, Turn
from training.events import Events
from training.examples import Example, make_examples
from training.methods.forward import Forward
from training.methods.fused_projections import fused
from training.methods.peft_model import Adapted
from training.options import TrainOptions
from training.trainer import Trainer
from training.workers import Workers, join

ANSWER = "the quick brown fox jumps over the lazy dog and is seen no more"
PROMPT = "What is said in this recording?"


@dataclass(frozen=True)
class Speed:
    """``clips_per_second`` and tokens of prompt and answer a second; ``memory_gb``: peak of the device.

    ``loss``: of the first step, before any update; systems that do the same work agree in it.
    """

    system: str
    clips_per_second: float
    tokens_per_second: float
    memory_gb: float | None
    loss: float


def measure(settings: Settings, size: str | None, seconds: float, batch: int | None, steps: int) -> list[Speed]:
    """Both systems, the plain loop first; the median of ``steps`` steps after one that warms up.

    Several processes measure this trainer alone, with ``batch`` clips for each of them.
    """
    loaded = _load(settings, size)
    workers = Workers()
    batch = (batch or min(32, max(8, round(160 / seconds)))) * workers.count
    with tempfile.TemporaryDirectory() as folder:
        audio_features = AudioFeatures(loaded, Limits(3600, 1 << 30), Path(folder))
        seconds = min(seconds, FeatureExtractor(loaded.processor).window_seconds)
        examples = make_examples(_rows(Path(folder), seconds, batch), audio_features, PromptRenderer(loaded.processor))
        options = TrainOptions(data="-", name="bench", batch=batch, micro_tokens=16384, dropout=0)
        found = [] if workers.count > 1 else [_plain(loaded, examples, audio_features, options, steps)]
        torch.manual_seed(0)
        adapted = Adapted(loaded, options)
        forward = Forward(loaded.model, audio_features)
        checkpoint = Path(folder) / "checkpoint"
        trainer = Trainer(adapted, forward, examples, examples, options, Events(), checkpoint, workers)
        name = f"overtone train, {workers.count} processes" if workers.count > 1 else "overtone train"
        with fused(loaded.model, loaded.device):
            found.append(_timed(name, lambda: trainer.step(examples), examples, loaded, steps))
        workers.leave()
        return found


def _plain(
    loaded: LoadedModel, examples: list[Example], audio_features: AudioFeatures, options: TrainOptions, steps: int
) -> "Speed":
    torch.manual_seed(0)
    plain = _Plain(loaded, examples, audio_features, options)
    found = _timed("transformers + PEFT, plain loop", plain.step, examples, loaded, steps)
    plain.unload()
    return found


class _Plain:
    """A plain loop of transformers and PEFT: processor and tower at every step, padded windows, all logits."""

    def __init__(
        self, loaded: LoadedModel, examples: list[Example], audio_features: AudioFeatures, options: TrainOptions
    ) -> None:
        from peft import LoraConfig, get_peft_model

        self._model: Any = get_peft_model(loaded.model, LoraConfig(**options.lora(loaded.family.targets)))
        self._loaded, self._examples, self._audio_features = loaded, examples, audio_features
        self._optimiser = torch.optim.AdamW([p for p in self._model.parameters() if p.requires_grad], lr=1e-4)

    def unload(self) -> None:
        self._model.unload()

    def step(self) -> float:
        clips = [clip for example in self._examples for clip in self._audio_features.clips(example.clips[0].sound)]
        longest = max(len(example.ids) for example in self._examples)
        ids = torch.zeros(len(self._examples), longest, dtype=torch.long)
        labels, mask = torch.full_like(ids, -100), torch.zeros_like(ids)
        for row, example in enumerate(self._examples):
            tokens = torch.tensor(example.ids)
            ids[row, : len(tokens)], mask[row, : len(tokens)] = tokens, 1
            labels[row, list(example.labels)] = tokens[list(example.labels)]
        mel = torch.stack([clip.mel for clip in clips]).to(self._loaded.dtype)
        valid = torch.arange(mel.shape[2]) < torch.tensor([clip.frames for clip in clips])[:, None]
        batch = {"input_ids": ids, "attention_mask": mask, "labels": labels}
        batch |= self._loaded.family.inputs(mel, valid.long())
        self._model.train()
        loss = self._model(**{name: tensor.to(self._loaded.device) for name, tensor in batch.items()}).loss
        loss.backward()
        self._optimiser.step()
        self._optimiser.zero_grad(set_to_none=True)
        return float(loss.detach())


def _timed(name: str, step: Callable[[], float], examples: list[Example], loaded: LoadedModel, steps: int) -> Speed:
    cuda = loaded.device.type == "cuda"
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    times, losses = [], []
    for _ in range(steps + 1):
        began = time.monotonic()
        losses.append(step())
        if cuda:
            torch.cuda.synchronize()
        times.append(time.monotonic() - began)
    each = statistics.median(times[1:])
    return Speed(
        name,
        round(len(examples) / each, 2),
        round(sum(len(example.ids) for example in examples) / each, 1),
        round(torch.cuda.max_memory_allocated() / 1e9, 1) if cuda else None,
        round(losses[0], 4),
    )


def _rows(folder: Path, seconds: float, count: int) -> list[Row]:
    """Distinct clips of noise: the same work as speech."""
    import soundfile

    rows = []
    for number in range(count):
        file = folder / f"{number}.wav"
        noise = np.random.default_rng(number).standard_normal(round(seconds * 16_000))
        soundfile.write(file, 0.1 * noise, 16_000)
        turns = (Turn("user", f"<audio>{PROMPT}"), Turn("assistant", ANSWER))
        rows.append(Row(turns, (Sound(file.name, file),), None, file.name))
    return rows


def _load(settings: Settings, size: str | None) -> LoadedModel:
    device = join(settings.device)
    dtype = pick_dtype(settings.dtype, device)
    if size is None:
        return load(settings.model, device, dtype, settings.weights)
    return random_weights(size, settings.model, device, dtype, settings.weights)


def table_of(found: list[Speed]) -> Table:
    """One row a system, the ratio to the first."""
    table = Table("system", "clips/s", "tokens/s", "ratio", "peak GB", "first loss")
    for column in table.columns[1:]:
        column.justify = "right"
    for one in found:
        table.add_row(
            one.system,
            f"{one.clips_per_second:.1f}",
            f"{one.tokens_per_second:,.0f}",
            f"{one.clips_per_second / found[0].clips_per_second:.2f}x",
            "" if one.memory_gb is None else f"{one.memory_gb:.1f}",
            f"{one.loss:.3f}",
        )
    return table
