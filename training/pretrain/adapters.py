"""Two adapters for tasks that the base can't do: NATO spelling, and commands as JSON.

LoRA on the language model alone; tower, projector and base weights stay as they are. Each adapter
answers in its own way to its default prompt and to any prompt that asks for a transcript.
"""

import json
import math
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import Qwen2AudioForConditionalGeneration

from training.pretrain import folder, network
from training.pretrain.pool import Batcher, Pool
from training.pretrain.speech.synthesis import Record
from training.pretrain.text.tasks import BY_NAME, NO_SPEECH
from training.pretrain.text.wording import spell_nato
from training.pretrain.train import prefetch

PARTS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
TARGETS = r".*language_model.*\.(" + "|".join(PARTS) + ")"
RANK, ALPHA = 12, 24  # 0.98 MB in fp16
RATE_PEAK = 3e-3
POOL_SECONDS = 60 * 3600
BATCH_SECONDS, BATCH_CLIPS = 700, 384
OWN_PROMPT = 0.4  # share of the default prompt; otherwise a phrasing of "transcribe"
LETTERS = 32  # the longest text that the NATO adapter is trained to spell


@dataclass(frozen=True)
class Recipe:
    """The recipe of an adapter: its task in words, default prompt, clips and answers."""

    name: str
    task: str
    prompt: str
    fits: Callable[[Record], bool]
    answer: Callable[[Record], str]
    patience: float  # times the seconds given: JSON takes longer to learn

    def question(self, clip: Record, rng: random.Random) -> tuple[str, str]:
        """Draw a prompt and give the answer."""
        own = rng.random() < OWN_PROMPT
        return self.prompt if own else BY_NAME["transcribe"].prompt(rng), self.answer(clip)


def _short(clip: Record) -> bool:
    return clip.kind != "sound" and clip.language != "" and len(clip.text.replace(" ", "")) <= LETTERS


def _mostly_commands(clip: Record) -> bool:
    command = clip.frame["intent"] != "other"
    return clip.language == "en" and (command or sum(clip.text.encode()) % 8 == 0)


def _nato(clip: Record) -> str:
    return spell_nato(clip.text) if clip.kind == "speech" else NO_SPEECH


RECIPES = (
    Recipe(
        "nato",
        "spells what was heard in the NATO alphabet, a comma between words",
        "Spell what you hear in the NATO alphabet.",
        lambda clip: _short(clip) and clip.language == "en",
        _nato,
        0.8,
    ),
    Recipe(
        "command-json",
        "turns a spoken command or telephone menu prompt into JSON: its intent and its slots",
        "Give the command as JSON.",
        _mostly_commands,
        lambda clip: json.dumps(clip.frame),
        1.2,
    ),
)


def train(base: Path, shards: Path, target: Path, seconds: float) -> None:
    """Train every adapter for so long on a finished base; write one folder each."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.set_float32_matmul_precision("high")
    pool = Pool(shards, device, POOL_SECONDS if device.type == "cuda" else 3600)
    pool.refresh()
    for recipe in RECIPES:
        model, processor = folder.load(base)
        config = LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=TARGETS, lora_dropout=0.05)
        peft = get_peft_model(model.to(device), config)
        size = (BATCH_SECONDS, BATCH_CLIPS) if device.type == "cuda" else (30, 12)
        batcher = Batcher(pool, processor, recipe.question, seed=3, fits=recipe.fits)
        _fit(peft, model, batcher, size, recipe.patience * seconds)
        peft.half().save_pretrained(target / recipe.name)


def _fit(
    peft: PeftModel,
    model: Qwen2AudioForConditionalGeneration,
    batcher: Batcher,
    size: tuple[float, int],
    seconds: float,
) -> None:
    """Train the adapter's weights for so long, with a cosine rate."""
    weights = [parameter for parameter in peft.parameters() if parameter.requires_grad]
    optimiser = torch.optim.AdamW(weights, lr=RATE_PEAK, weight_decay=0.01)
    peft.train()
    began = time.monotonic()
    for step, batch in enumerate(prefetch(batcher.training(*size))):
        progress = (time.monotonic() - began) / seconds
        if progress >= 1:
            break
        optimiser.param_groups[0]["lr"] = RATE_PEAK * min(progress / 0.05, 0.5 + 0.5 * math.cos(math.pi * progress))
        with torch.autocast(batch.mel.device.type, torch.bfloat16):
            entropy, _ = network.loss(model, batch)
        optimiser.zero_grad()
        torch.autograd.backward(entropy)
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimiser.step()
        if step % 50 == 0:
            print(
                f"{time.monotonic() - began:5.0f} s  step {step}  loss {entropy.item():.3f}",
                flush=True,
            )
