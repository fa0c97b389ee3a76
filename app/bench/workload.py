"""What is measured: clips of one length, one prompt, random adapters on q_proj and v_proj."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from app.engine.alone import shell_of
from app.model.base import LoadedModel
from app.model.features import Clip, FeatureExtractor, audio_tokens
from app.model.prompt import Message, PromptRenderer

RANK = 8
TARGETS = r".*language_model.*\.(q_proj|v_proj)"


@dataclass(frozen=True)
class Case:
    """``requests`` at once, spread over ``adapters`` (0: the base model), each with ``seconds`` of audio.

    Without ``seconds`` a clip fills the window.
    """

    requests: int
    adapters: int
    seconds: float | None = None

    def adapter_of(self, request: int) -> str | None:
        return f"bench-{request % self.adapters}" if self.adapters else None


CASES = tuple(Case(requests, adapters) for requests in (1, 8, 32) for adapters in (0, 1, 8) if adapters <= requests)


def make_clip(loaded: LoadedModel, seed: int, seconds: float | None = None) -> Clip:
    """Noise as log-mel features, padded to the window: the same work as speech, no two alike."""
    window = round(FeatureExtractor(loaded.processor).window_seconds * 100)
    frames = window if seconds is None else min(window, round(seconds * 100))
    bins = loaded.model.config.audio_config.num_mel_bins
    noise = np.random.default_rng(seed).standard_normal((bins, window)).astype(np.float32)
    noise[:, frames:] = noise.min()
    return Clip(torch.from_numpy(noise), frames, audio_tokens(frames), f"bench-{seed}")


def make_messages(clip: Clip) -> list[Message]:
    words = "Listen to the recording and describe in a few sentences what is said in it, by whom, and how."
    return [Message("user", (clip, words))]


def make_prompt(loaded: LoadedModel, clip: Clip) -> list[int]:
    return PromptRenderer(loaded.processor).render(make_messages(clip))


def write_adapters(loaded: LoadedModel, folder: Path, count: int) -> dict[str, Path]:
    """Random adapters as PEFT writes them, by name."""
    from peft import LoraConfig, get_peft_model

    lora = LoraConfig(r=RANK, lora_alpha=2 * RANK, target_modules=TARGETS, task_type="CAUSAL_LM")
    model = get_peft_model(shell_of(loaded.model), lora, autocast_adapter_dtype=False)
    folders = {}
    for index in range(count):
        torch.manual_seed(index)
        for path, parameter in model.named_parameters():
            if "lora_" in path:
                parameter.data = 0.02 * torch.randn_like(parameter)
        folders[f"bench-{index}"] = folder / f"bench-{index}"
        model.save_pretrained(str(folders[f"bench-{index}"]))
    return folders
