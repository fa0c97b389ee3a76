"""Whisper's tower with an average pool by 2, over valid frames only. Server and trainer share it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F

from app.models.layout import AUDIO_TOWER

Count = TypeVar("Count", int, npt.NDArray[np.int64])
MARGIN = 8  # mel frames that the convolutions at the last valid position may look at, and more


def run_tower(tower: Any, mels: Sequence[torch.Tensor], frames: Sequence[int]) -> list[torch.Tensor]:
    """Encode clips together; the tower's output for each, [audio tokens, tower width].

    ``mels``: [mel bins, window frames] each, padded as the feature extractor pads; ``frames``: how many of them
    are valid. The layers see valid frames alone, which equals masking the rest in every layer, as transformers' own
    `forward` does; the convolutions see just enough of the padding to give what the whole window gives.
    """
    weight = tower.conv1.weight
    longest = max(frames)
    mel = torch.stack([mel[:, : longest + MARGIN] for mel in mels]).to(weight.device, weight.dtype)
    lengths = [convolved(count) for count in frames]
    hidden = F.gelu(tower.conv2(F.gelu(tower.conv1(mel)))).permute(0, 2, 1)
    hidden = hidden[:, : max(lengths)] + tower.embed_positions.weight[: max(lengths)]
    mask = _mask(lengths, hidden)
    for layer in tower.layers:
        hidden = layer(hidden, mask)
    hidden = tower.layer_norm(tower.avg_pooler(hidden.permute(0, 2, 1)).permute(0, 2, 1))
    return [row[: pooled(length)] for row, length in zip(hidden, lengths, strict=True)]


def convolved(frames: Count) -> Count:
    """Positions after the stride-2 convolution of so many mel frames."""
    return (frames - 1) // 2 + 1


def pooled(length: Count) -> Count:
    """Audio tokens of so many positions."""
    return (length - 2) // 2 + 1


def audio_tokens(frames: Count) -> Count:
    """Audio tokens of so many valid mel frames: 25 per second."""
    return pooled(convolved(frames))


@dataclass(frozen=True)
class PooledWhisper:
    """The `AudioTower` of families that have this tower."""

    def tokens(self, frames: int) -> int:
        """As `AudioTower.tokens`."""
        return audio_tokens(frames)

    def width(self, parameters: Mapping[str, tuple[int, ...]]) -> int:
        """As `AudioTower.width`."""
        return parameters[f"{AUDIO_TOWER}.layer_norm.weight"][0]

    def run(self, tower: Any, mels: Sequence[torch.Tensor], frames: Sequence[int]) -> list[torch.Tensor]:
        """As `run_tower`."""
        return run_tower(tower, mels, frames)


def _mask(lengths: Sequence[int], like: torch.Tensor) -> torch.Tensor | None:
    """Additive mask [clips, 1, longest, longest] where lengths differ; none where they do not."""
    longest = max(lengths)
    if min(lengths) == longest:
        return None
    padded = torch.arange(longest, device=like.device) >= torch.tensor(lengths, device=like.device)[:, None]
    mask = torch.zeros(len(lengths), 1, 1, longest, dtype=like.dtype, device=like.device)
    mask.masked_fill_(padded[:, None, None], torch.finfo(like.dtype).min)
    return mask.expand(-1, 1, longest, -1)
