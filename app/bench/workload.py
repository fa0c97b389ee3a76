"""The bench's workload: clips of one length, one prompt, random adapters on q_proj and v_proj."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from app.engine.lora.peft_fallback import shell_of
from app.models.features import Clip, FeatureExtractor
from app.models.loading import LoadedModel
from app.models.prompt import PromptRenderer
from app.quantization.linear import QuantizedLinear
from app.service.generation import Conversation

RANK = 8
WORDS = "Listen to the recording and describe in a few sentences what is said in it, by whom, and how."


@dataclass(frozen=True)
class Case:
    """``requests`` at once, spread over ``adapters`` (0: the base model), each with ``seconds`` of audio.

    Without ``seconds`` a clip fills the window.
    """

    requests: int
    adapters: int
    rank: int = RANK
    seconds: float | None = None

    def adapter_of(self, request: int) -> str | None:
        return adapter_name(self.rank, request % self.adapters) if self.adapters else None

    def __str__(self) -> str:
        return f"{self.requests}x{self.adapters}" + (f"r{self.rank}" if self.rank != RANK else "")


CASES = tuple(Case(requests, adapters) for requests in (1, 8, 32) for adapters in (0, 1, 8) if adapters <= requests)


def parse_case(text: str, seconds: float | None) -> Case:
    """`32x8`, or with a rank `128x32r16`. Raises ValueError."""
    requests, _, rest = text.strip().lower().partition("x")
    adapters, _, rank = rest.partition("r")
    return Case(int(requests), int(adapters), int(rank or RANK), seconds)


def adapter_name(rank: int, index: int) -> str:
    return f"bench-r{rank}-{index}"


def make_clip(loaded: LoadedModel, seed: int, seconds: float | None = None) -> Clip:
    """Noise as log-mel features, padded to the window: the same work as speech, no two alike."""
    features = FeatureExtractor(loaded.processor)
    window = round(features.window_seconds * 100)
    frames = window if seconds is None else min(window, round(seconds * 100))
    bins = loaded.model.config.audio_config.num_mel_bins
    noise = np.random.default_rng(seed).standard_normal((bins, window)).astype(np.float32)
    noise[:, frames:] = noise.min()
    return Clip(torch.from_numpy(noise), frames, features.tokens(frames), f"bench-{seed}")


def make_conversation(clip: Clip) -> Conversation:
    """The one prompt of all measurements, about a clip."""
    return Conversation.single_turn([[clip]], WORDS)


def make_prompt(loaded: LoadedModel, clip: Clip) -> list[int]:
    return PromptRenderer(loaded.processor).render(make_conversation(clip).messages)


def say_words(loaded: LoadedModel) -> LoadedModel:
    """Make random weights answer with tokens of their tokenizer, as a real model does; no answer ends early.

    The head's other rows become zero, and so are never the likeliest.
    """
    head, tokenizer = loaded.model.lm_head, loaded.processor.tokenizer
    for outputs in (tokenizer.all_special_ids, slice(len(tokenizer), None)):
        if isinstance(head, QuantizedLinear):
            head.zero_outputs(outputs)
        else:
            head.weight[outputs] = 0
    return loaded


def write_adapters(loaded: LoadedModel, folder: Path, count: int, rank: int = RANK) -> dict[str, Path]:
    """Random adapters as PEFT writes them, by name."""
    from peft import LoraConfig, get_peft_model

    lora = LoraConfig(
        r=rank, lora_alpha=2 * rank, target_modules=loaded.family.targets.attention, task_type="CAUSAL_LM"
    )
    model = get_peft_model(shell_of(loaded.model), lora, autocast_adapter_dtype=False)
    folders: dict[str, Path] = {}
    for index in range(count):
        torch.manual_seed(index)
        for path, parameter in model.named_parameters():
            if "lora_" in path:
                parameter.data = 0.02 * torch.randn_like(parameter)
        name = adapter_name(rank, index)
        folders[name] = folder / name
        model.save_pretrained(str(folders[name]))
    return folders


def write_all(loaded: LoadedModel, folder: Path, cases: tuple[Case, ...]) -> dict[str, Path]:
    """The adapters that the cases name, at least one."""
    most: dict[int, int] = {RANK: 1}
    for case in cases:
        most[case.rank] = max(most.get(case.rank, 0), case.adapters)
    folders: dict[str, Path] = {}
    for rank, count in most.items():
        folders |= write_adapters(loaded, folder, count, rank)
    return folders
