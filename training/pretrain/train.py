"""Training of the base: first projector and language model, then the tower too, gently.

The length of a run is wall-clock time, since clips may still be arriving from the synthesis; the
learning rate follows it (linear warm-up, then cosine to zero).
"""

import math
import random
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from transformers import Qwen2AudioForConditionalGeneration, Qwen2AudioProcessor

from training.pretrain import folder, network
from training.pretrain.pool import Batch, Batcher, Pool
from training.pretrain.speech.synthesis import UNSEEN_VOICE, Record
from training.pretrain.text import tasks

POOL_SECONDS = 260 * 3600  # room for sound on the device: 30 GB
BATCH_SECONDS, BATCH_CLIPS = 1600, 768
RATE_PEAK, WARM_UP = 1.2e-3, 0.04  # the peak of a first run; a restart takes about half
TOWER_FROM, TOWER_RATE = 0.12, 0.15  # share of the run before it trains; its part of the rate
VALIDATED = {"hibari", "kokoro", "flite-slt", "flite-rms", UNSEEN_VOICE}
SAVE_EVERY = 120  # seconds
COLLAPSED = 0.25  # rows closer together than this part of the used rows' spread are one vector


def train(
    start: Path,
    shards: Path,
    target: Path,
    seconds: float,
    at_least: int,
    peak: float = RATE_PEAK,
    seed: int = 1,
) -> None:
    """Train the folder `start` on the shards for so long, from `at_least` clips on."""
    began = time.monotonic()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.set_float32_matmul_precision("high")
    torch.manual_seed(seed)
    model, processor = folder.load(start)
    model.to(device).train()
    pool = Pool(shards, device, POOL_SECONDS if device.type == "cuda" else 3600)
    while pool.refresh() < at_least:
        time.sleep(1)
    optimiser = _optimiser(model)
    batcher = Batcher(pool, processor, tasks.draw, seed=seed)
    size = (BATCH_SECONDS, BATCH_CLIPS) if device.type == "cuda" else (40, 16)
    presented, saved = 0, began
    used = torch.zeros(len(processor.tokenizer), dtype=torch.bool, device=device)
    for step, batch in enumerate(prefetch(batcher.training(*size))):
        progress = (time.monotonic() - began) / seconds
        if progress >= 1:
            break
        entropy, ctc = _step(model, optimiser, batch, progress, peak)
        used[batch.ids] = True
        presented += len(batch.ids)
        if step % 50 == 0:
            print(
                f"{time.monotonic() - began:5.0f} s  step {step}  clips {presented}  "
                f"pool {pool.hours():.1f} h  loss {entropy.item():.3f}  ctc {ctc.item():.3f}",
                flush=True,
            )
        if time.monotonic() - saved > SAVE_EVERY:
            saved = time.monotonic()
            folder.save(model, processor, target)
    separate_unused(model, used)
    folder.save(model, processor, target)
    validate(model, processor, pool)


@torch.no_grad()
def separate_unused(model: Qwen2AudioForConditionalGeneration, used: torch.Tensor) -> None:
    """Give output rows of tokens that no answer used a direction of their own.

    Training only ever pushes those rows down, all the same way, until they are one vector. An
    adapter whose answers need them (JSON's quotes and braces) could not tell them apart. Rows that
    still differ, as after a short restart, stay as they are.
    """
    rows = model.lm_head.weight
    if used.all():
        return
    usual = rows[used].std()
    collapsed = ~used & ((rows - rows[~used].median(0).values).std(1) < COLLAPSED * usual)
    rows[collapsed] += 0.5 * usual * torch.randn_like(rows[collapsed])
    print(f"{int(collapsed.sum())} of {int((~used).sum())} unused output rows separated", flush=True)


def prefetch(batches: Iterator[Batch]) -> Iterator[Batch]:
    """Build batches in a thread, three ahead, so that the device never waits for tokens."""
    with ThreadPoolExecutor(1) as worker:
        ahead = deque(worker.submit(next, batches) for _ in range(3))
        while True:
            batch = ahead.popleft().result()
            ahead.append(worker.submit(next, batches))
            yield batch


@torch.no_grad()
def validate(model: Qwen2AudioForConditionalGeneration, processor: Qwen2AudioProcessor, pool: Pool) -> None:
    """Print the loss per voice on sentences kept out of training, undisturbed."""
    model.eval()
    batcher = Batcher(pool, processor, ask_transcript, seed=2)
    aside = [clip for clip in pool.clips if clip[1].validation and clip[1].language == "en"]
    for voice in sorted({clip[1].voice for clip in aside} & VALIDATED):
        clips = [clip for clip in aside if clip[1].voice == voice]
        clips = random.Random(0).sample(clips, min(len(clips), 64))
        entropy, _ = network.loss(model, batcher.batch(clips, augmented=False), with_ctc=False)
        print(f"validation  {voice}  {len(clips)} clips  loss {entropy.item():.3f}", flush=True)


def ask_transcript(clip: Record, rng: random.Random) -> tuple[str, str]:
    """Ask for the transcript."""
    return tasks.BY_NAME["transcribe"].prompt(rng), clip.text


def _optimiser(model: Qwen2AudioForConditionalGeneration) -> torch.optim.AdamW:
    """AdamW with the tower as a group of its own; no decay on vectors."""
    tower: list[torch.nn.Parameter] = []
    matrices: list[torch.nn.Parameter] = []
    vectors: list[torch.nn.Parameter] = []
    for name, parameter in model.named_parameters():
        if "embed_positions" in name:
            continue  # sinusoids, kept
        group = tower if "audio_tower" in name else matrices if parameter.dim() > 1 else vectors
        group.append(parameter)
    groups = [
        {"params": matrices, "scale": 1.0, "weight_decay": 0.05},
        {"params": vectors, "scale": 1.0, "weight_decay": 0.0},
        {"params": tower, "scale": TOWER_RATE, "weight_decay": 0.01},
    ]
    fused = next(model.parameters()).is_cuda
    return torch.optim.AdamW(groups, lr=RATE_PEAK, betas=(0.9, 0.98), fused=fused)


def _step(
    model: Qwen2AudioForConditionalGeneration,
    optimiser: torch.optim.Optimizer,
    batch: Batch,
    progress: float,
    peak: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Take one optimiser step at this point of the run (0 to 1)."""
    rate = peak * min(progress / WARM_UP, 0.5 + 0.5 * math.cos(math.pi * min(progress, 1)))
    for group in optimiser.param_groups:
        group["lr"] = rate * group["scale"]
    for parameter in optimiser.param_groups[-1]["params"]:
        parameter.requires_grad_(progress >= TOWER_FROM)
    with torch.autocast(batch.mel.device.type, torch.bfloat16):
        entropy, ctc = network.loss(model, batch)
    optimiser.zero_grad(set_to_none=True)
    torch.autograd.backward(entropy + network.CTC_SHARE * ctc)
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimiser.step()
    return entropy.detach(), ctc.detach()
