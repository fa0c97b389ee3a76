"""Teaching the transplanted start: prompts and tasks, words in lower case, numbers as words, and when to stop.

Whisper itself is the teacher. Its tower encodes a clip and the silence after it, ours the clip (attention past its end
is masked), and short clips suffer: so the tower learns to return what it returned with the silence, and nothing else
moves it. The language model learns the right words and, for transcripts, what Whisper's decoder expects. At first it
reads Whisper's features, later the tower's, clip by clip more of them.

The first layer, which counts, stays. Every other tensor moves at a rate in proportion to the size of its weights; what
reads the audio moves least, so that synthetic voices cannot spoil what human ones taught; the MLPs that Whisper does
not have move most.
"""

import contextlib
import math
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import Qwen2AudioForConditionalGeneration, Qwen2AudioProcessor

from training.pretrain import eight_bits, folder, network, vocabulary
from training.pretrain.layout import CODES
from training.pretrain.pool import IGNORE, Batch, Batcher, Pool
from training.pretrain.teacher import Teacher
from training.pretrain.text import tasks
from training.pretrain.train import prefetch, validate
from training.pretrain.whisper import WIDTH

POOL_SECONDS = 300 * 3600  # room for sound on the device: 35 GB
BATCH_SECONDS, BATCH_CLIPS = 1600, 576
PEAK, WARM_UP = 2e-3, 60  # step size in parts of a tensor's usual weight; steps
READING, NEW, NORMS = 0.3, 2.0, 0.1  # factors: what reads audio, what is new, norms
EMPTY = {"projector": 0.005, "other": 0.02}  # usual weight where most of a tensor starts at zero
SAVE_EVERY = 100  # seconds
PROGRESS = "progress.txt"
TOWER_PEAK = 4e-4
TOWER_UNTIL = 0.6  # part of the run in which the tower learns
HEARD_FROM, HEARD_ALL = 0.08, 0.3  # parts of the run: from which on the tower's features are read; all are the tower's
TAUGHT = 0.4  # weight of Whisper's expectations beside the right word, where it is asked
SMOOTHING = 0.02
BLANK, BLANKED = 5.0, 0.3  # positions of 0.04 s; share of clips


@dataclass(frozen=True)
class Run:
    """Settings of one run: `seconds` of wall-clock time, `eight_bits` the part of it from which weights are rounded.

    `begun`: the part that an interrupted run had done, whose last weights this one goes on with.
    """

    seconds: float
    at_least: int
    peak: float
    seed: int
    teacher: Path | None
    eight_bits: float
    begun: float = 0.0

    def progress(self, elapsed: float) -> float:
        """Part of the whole run that is done after so many seconds of this one."""
        return self.begun + (1 - self.begun) * elapsed / self.seconds


def tune(start: Path, shards: Path, target: Path, run: Run) -> None:
    """Train the folder `start` on the shards, from `at_least` clips on."""
    began = time.monotonic()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.set_float32_matmul_precision("high")
    torch.manual_seed(run.seed)
    model, processor = folder.load(start)
    model.to(device).train()
    teacher = Teacher(run.teacher, device) if run.teacher else None
    pool = Pool(shards, device, POOL_SECONDS if device.type == "cuda" else 3600)
    while pool.refresh() < run.at_least:
        time.sleep(1)
    print(f"{time.monotonic() - began:5.0f} s  {len(pool.clips)} clips", flush=True)
    lesson = Lesson(model, processor, teacher, run)
    batcher = Batcher(pool, processor, tasks.draw, seed=run.seed, teacher=teacher.extractor if teacher else None)
    size = (BATCH_SECONDS, BATCH_CLIPS) if device.type == "cuda" else (12, 12)
    presented, saved = 0, time.monotonic()
    for step, batch in enumerate(prefetch(batcher.training(*size))):
        progress = run.progress(time.monotonic() - began)
        if progress >= 1:
            break
        found = lesson.step(batch, step, progress)
        presented += len(batch.ids)
        if step % 50 == 0:
            print(
                f"{time.monotonic() - began:5.0f} s  step {step}  clips {presented}  pool {pool.hours():.1f} h  "
                + "  ".join(f"{name} {value.item():.4f}" for name, value in found.items()),
                flush=True,
            )
        if time.monotonic() - saved > SAVE_EVERY:
            saved = time.monotonic()
            _keep(model, processor, target, progress)
    _keep(model, processor, target, 1.0)
    validate(model, processor, pool)
    with eight_bits.Rounded(model):
        print(f"in eight bits, {eight_bits.stored_bytes(model) / 1e6:.1f} MB:", flush=True)
        validate(model, processor, pool)


def _keep(
    model: Qwen2AudioForConditionalGeneration, processor: Qwen2AudioProcessor, target: Path, progress: float
) -> None:
    """Save so that the folder is whole at any moment; `PROGRESS` says how much of the run it has seen."""
    unfinished = target.with_name(f"{target.name}.unfinished")
    folder.save(model, processor, unfinished)
    (unfinished / PROGRESS).write_text(f"{progress:.4f}\n")
    for path in unfinished.iterdir():
        target.mkdir(parents=True, exist_ok=True)
        path.replace(target / path.name)
    unfinished.rmdir()


class Lesson:
    """One optimiser for the language model and one for the tower, and what a step does."""

    def __init__(
        self,
        model: Qwen2AudioForConditionalGeneration,
        processor: Qwen2AudioProcessor,
        teacher: Teacher | None,
        run: Run,
    ) -> None:
        """Freeze what stays; the tower learns only from a teacher."""
        self.model, self.teacher, self.run = model, teacher, run
        self.language = _optimiser(model)
        tower = [weight for name, weight in model.model.audio_tower.named_parameters() if "embed_positions" not in name]
        fused = tower[0].is_cuda
        self.tower = torch.optim.AdamW(tower, lr=TOWER_PEAK, betas=(0.9, 0.98), weight_decay=0.0, fused=fused)
        _keep_flags(model, processor.tokenizer.convert_tokens_to_ids([vocabulary.MARK, vocabulary.START]))
        self.rounded = eight_bits.Rounded(model)

    def step(self, batch: Batch, step: int, progress: float) -> dict[str, Tensor]:
        """Take one step of whatever learns at this point of the run; return the losses."""
        learning = self.teacher is not None and progress < TOWER_UNTIL
        tower = self.model.model.audio_tower
        tower.requires_grad_(learning)
        rounding = self.rounded if progress >= self.run.eight_bits else contextlib.nullcontext()
        found: dict[str, Tensor] = {}
        with rounding, torch.autocast(batch.mel.device.type, torch.bfloat16):
            hidden, counts = network.encode(tower, batch.mel, batch.frames)
            wanted = self._wanted(batch, everything=learning)
            heard, total = hidden.detach(), hidden.new_zeros(())
            if learning and self.teacher is not None and wanted is not None:
                features = self.teacher.features(wanted)
                found["tower"] = total = _apart(hidden, features, counts)
                heard = _mixed(heard, features, (progress - HEARD_FROM) / (HEARD_ALL - HEARD_FROM))
            words = wanted if wanted is None or not learning else wanted[batch.transcribed]
            found["words"] = self._words(batch, heard, counts, words)
            self.model.zero_grad(set_to_none=True)
            torch.autograd.backward(total + found["words"])
        if learning:
            self._move(self.tower, TOWER_PEAK * _schedule(step, progress / TOWER_UNTIL))
        self._move(self.language, self.run.peak * _schedule(step, progress))
        return {name: value.detach() for name, value in found.items()}

    def _wanted(self, batch: Batch, everything: bool) -> Tensor | None:
        """The teacher's states of all clips, or of those whose answer is a transcript."""
        if self.teacher is None or batch.source is None:
            return None
        source = batch.source if everything else batch.source[batch.transcribed]
        with torch.autocast(batch.mel.device.type, enabled=False):
            return self.teacher.states(source)

    def _words(self, batch: Batch, hidden: Tensor, counts: Tensor, wanted: Tensor | None) -> Tensor:
        """Cross entropy with the right tokens and, for transcripts, with the teacher's expectations."""
        hidden = functional.dropout(_blanked(hidden), network.DROPOUT)
        logits, _ = network.answer(self.model, batch, self.model.model.multi_modal_projector(hidden), counts)
        logs = logits.float().log_softmax(-1)
        targets = batch.labels[:, 1:]
        right = targets[targets != IGNORE]
        hard = -(1 - SMOOTHING) * logs.gather(1, right[:, None])[:, 0] - SMOOTHING * logs.mean(1)
        if self.teacher is None or wanted is None or batch.transcribed is None or not len(wanted):
            return hard.mean()
        answers, asked = _answers(targets, batch.transcribed)
        with torch.autocast(batch.mel.device.type, enabled=False):
            expected = self.teacher.expects(wanted, answers, asked, logs.shape[1])
        places = _asked_places(targets, batch.transcribed)
        soft = -(expected * logs[places]).sum(1)
        weight = torch.ones_like(hard)
        weight[places] = 1 - TAUGHT
        return ((weight * hard).sum() + TAUGHT * soft.sum()) / len(hard)

    @staticmethod
    def _move(optimiser: torch.optim.Optimizer, rate: float) -> None:
        """Take an optimiser's step at a rate."""
        weights = [weight for group in optimiser.param_groups for weight in group["params"]]
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        for group in optimiser.param_groups:
            group["lr"] = rate * group.get("scale", 1.0)
        optimiser.step()


def _mixed(heard: Tensor, wanted: Tensor, share: float) -> Tensor:
    """Leave so large a share of the clips to the tower; the others are read as Whisper hears them."""
    chosen = torch.rand(len(heard), 1, 1, device=heard.device) < share
    return torch.where(chosen, heard, wanted[:, : heard.shape[1]].to(heard.dtype))


def _blanked(hidden: Tensor) -> Tensor:
    """Put the batch's mean in place of a span of up to `BLANK` positions, in some clips."""
    clips, length, _ = hidden.shape
    place = torch.arange(length, device=hidden.device)[None, :]
    first = torch.rand(clips, 1, device=hidden.device) * length
    span = torch.rand(clips, 1, device=hidden.device) * BLANK
    chosen = torch.rand(clips, 1, device=hidden.device) < BLANKED
    gone = chosen & (place >= first) & (place < first + span)
    return torch.where(gone[..., None], hidden.mean((0, 1)), hidden)


def _apart(hidden: Tensor, wanted: Tensor, counts: Tensor) -> Tensor:
    """Mean square difference at the positions of the clip, each dimension in parts of its own variance."""
    valid = torch.arange(hidden.shape[1], device=counts.device)[None, :] < counts[:, None]
    right = wanted[:, : hidden.shape[1]][valid].float()
    apart: Tensor = ((hidden[valid].float() - right) ** 2 / right.var(0).clamp(min=1e-6)).mean()
    return apart


def _answers(targets: Tensor, transcribed: Tensor) -> tuple[Tensor, Tensor]:
    """Transcripts moved to the left [clips, tokens] and a mask without their last token, which ends the answer."""
    rows = targets[transcribed]
    spoken = rows != IGNORE
    first, count = spoken.int().argmax(1), spoken.sum(1)
    order = torch.arange(int(count.max()), device=rows.device)
    asked = order[None, :] < (count - 1)[:, None]
    return rows.gather(1, (first[:, None] + order).clamp(max=rows.shape[1] - 1)).clamp(min=0), asked


def _asked_places(targets: Tensor, transcribed: Tensor) -> Tensor:
    """Mask over all answers' tokens, in the order of `network.answer`: transcripts without their last token."""
    spoken = targets != IGNORE
    following = torch.zeros_like(spoken)
    following[:, :-1] = spoken[:, 1:]
    return (following & transcribed[:, None])[spoken]


def _optimiser(model: Qwen2AudioForConditionalGeneration) -> torch.optim.AdamW:
    """AdamW without decay; each tensor's own `scale` is its usual weight times the factor of its part."""
    groups = []
    for name, parameter in model.named_parameters():
        if "audio_tower" in name or "language_model.layers.0." in name:
            parameter.requires_grad_(False)
            continue
        empty = EMPTY["projector" if "projector" in name else "other"]
        groups.append({"params": [parameter], "scale": _factor(name) * _usual(parameter, empty)})
    fused = next(model.parameters()).is_cuda
    return torch.optim.AdamW(groups, lr=PEAK, betas=(0.9, 0.98), weight_decay=0.0, fused=fused)


def _factor(name: str) -> float:
    """The learning rate of a part."""
    if "norm" in name:
        return NORMS
    if "multi_modal_projector" in name:
        return READING
    parts = name.split(".")
    if "layers" not in parts:
        return 1.0
    to_audio = int(parts[parts.index("layers") + 1]) % 2 == 0
    if to_audio:
        return READING if "k_proj" in name or "v_proj" in name else 1.0
    return NEW if "mlp" in name else 1.0


def _usual(parameter: Tensor, empty: float) -> float:
    """Robust size of a tensor's weights: few large ones, such as gates, do not count."""
    sizes = parameter.detach().abs().flatten()
    sizes = sizes[sizes > 0]
    if len(sizes) < parameter.numel() // 4:
        return empty
    return float(1.5 * sizes[torch.randperm(len(sizes), device=sizes.device)[:100_000]].median())


def _keep_flags(model: Qwen2AudioForConditionalGeneration, rows: list[int]) -> None:
    """Let no step change the flags of the input embeddings, nor the two tokens that carry flags of their own."""
    table: nn.Parameter = model.get_input_embeddings().weight
    moving = torch.ones_like(table)
    moving[:, WIDTH:CODES] = 0
    moving[rows] = 0
    table.register_hook(lambda gradient: gradient * moving)  # type: ignore[no-untyped-call]


def _schedule(step: int, progress: float) -> float:
    """Linear warm-up over steps, cosine to zero over the run's time (progress 0 to 1)."""
    return min((step + 1) / WARM_UP, 0.5 + 0.5 * math.cos(math.pi * min(progress, 1)))
