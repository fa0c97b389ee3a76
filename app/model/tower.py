"""The audio tower over valid frames only. Server and trainer share it."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F

MARGIN = 8  # mel frames that the convolutions at the last valid position may look at, and more


def run_tower(tower: Any, mels: Sequence[torch.Tensor], frames: Sequence[int]) -> list[torch.Tensor]:
    """Encode clips together; the tower's output for each, [audio tokens, tower width].

    ``mels``: [mel bins, window frames] each, padded as the feature extractor pads; ``frames``: how many of them
    are valid. The layers see valid frames alone, which equals masking the rest in every layer of
    `Qwen2AudioEncoder`; the convolutions see just enough of the padding to give what the whole window gives.
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


def convolved(frames: int) -> int:
    """Positions after the stride-2 convolution."""
    return (frames - 1) // 2 + 1


def pooled(length: int) -> int:
    """Audio tokens of so many positions."""
    return (length - 2) // 2 + 1


def _mask(lengths: Sequence[int], like: torch.Tensor) -> torch.Tensor | None:
    """Additive mask [clips, 1, longest, longest] where lengths differ; none where they do not."""
    longest = max(lengths)
    if min(lengths) == longest:
        return None
    padded = torch.arange(longest, device=like.device) >= torch.tensor(lengths, device=like.device)[:, None]
    mask = torch.zeros(len(lengths), 1, 1, longest, dtype=like.dtype, device=like.device)
    mask.masked_fill_(padded[:, None, None], torch.finfo(like.dtype).min)
    return mask.expand(-1, 1, longest, -1)
