"""Teaching the transplanted start: prompts and tasks, words in lower case, numbers as words, and when to stop.

The tower stays as Whisper made it, and so does the first layer, which counts. Every tensor moves at a rate in
proportion to the size of its weights; what reads the audio moves least, so that synthetic voices cannot spoil what
human ones taught; the MLPs that Whisper does not have move most.
"""

import math
import time
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import Qwen2AudioForConditionalGeneration

from training.pretrain import folder, network, tasks, vocabulary
from training.pretrain.layout import CODES
from training.pretrain.pool import Batch, Batcher, Pool
from training.pretrain.train import prefetch, validate
from training.pretrain.whisper import WIDTH

POOL_SECONDS = 300 * 3600  # room for sound on the device: 35 GB
BATCH_SECONDS, BATCH_CLIPS = 1400, 512
PEAK, WARM_UP = 2e-3, 60  # step size in parts of a tensor's usual weight; steps
READING, NEW, NORMS = 0.3, 2.0, 0.1  # factors: what reads audio, what is new, norms
EMPTY = {"projector": 0.005, "other": 0.02}  # usual weight where most of a tensor starts at zero
SAVE_EVERY = 150  # seconds


def tune(start: Path, shards: Path, target: Path, seconds: float, at_least: int, peak: float, seed: int) -> None:
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
    print(f"{time.monotonic() - began:5.0f} s  {len(pool.clips)} clips", flush=True)
    optimiser = _optimiser(model)
    _keep_flags(model, processor.tokenizer.convert_tokens_to_ids([vocabulary.MARK, vocabulary.START]))
    batcher = Batcher(pool, processor, tasks.draw, seed=seed)
    size = (BATCH_SECONDS, BATCH_CLIPS) if device.type == "cuda" else (40, 16)
    presented, saved = 0, time.monotonic()
    for step, batch in enumerate(prefetch(batcher.training(*size))):
        progress = (time.monotonic() - began) / seconds
        if progress >= 1:
            break
        entropy = _step(model, optimiser, batch, peak * _schedule(step, progress))
        presented += len(batch.ids)
        if step % 50 == 0:
            print(
                f"{time.monotonic() - began:5.0f} s  step {step}  clips {presented}  "
                f"pool {pool.hours():.1f} h  loss {entropy.item():.3f}",
                flush=True,
            )
        if time.monotonic() - saved > SAVE_EVERY:
            saved = time.monotonic()
            folder.save(model, processor, target)
    folder.save(model, processor, target)
    validate(model, processor, pool)


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
    """How fast a part moves."""
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


def _step(
    model: Qwen2AudioForConditionalGeneration,
    optimiser: torch.optim.Optimizer,
    batch: Batch,
    rate: float,
) -> Tensor:
    """Take one optimiser step; return the loss."""
    for group in optimiser.param_groups:
        group["lr"] = rate * group["scale"]
    with torch.autocast(batch.mel.device.type, torch.bfloat16):
        entropy, _ = network.loss(model, batch, with_ctc=False)
    optimiser.zero_grad(set_to_none=True)
    torch.autograd.backward(entropy)
    torch.nn.utils.clip_grad_norm_([p for p in model.parameters() if p.grad is not None], 1.0)
    optimiser.step()
    return entropy.detach()
