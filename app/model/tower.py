"""The audio tower over valid frames only. Server and trainer share it."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F

_MARGIN = 8  # mel frames that the convolutions at the last valid position may look at, and more


def run_tower(tower: Any, mels: Sequence[torch.Tensor], frames: Sequence[int]) -> list[torch.Tensor]:
    """Encode clips together; the tower's output for each, [audio tokens, tower width].

    ``mels``: [mel bins, window frames] each, padded as the feature extractor pads; ``frames``: how many of them
    are valid. The layers see valid frames alone, which equals masking the rest in every layer of
    `Qwen2AudioEncoder`; the convolutions see just enough of the padding to give what the whole window gives.
    """
    weight = tower.conv1.weight
    longest = max(frames)
    mel = torch.stack([mel[:, : longest + _MARGIN] for mel in mels]).to(weight.device, weight.dtype)
    hidden = F.gelu(tower.conv2(F.gelu(tower.conv1(mel)))).permute(0, 2, 1)
    lengths = [_convolved(count) for count in frames]
    hidden = hidden[:, : max(lengths)] + tower.embed_positions.weight[: max(lengths)]
    mask = _mask(lengths, hidden)
    for layer in tower.layers:
        hidden = layer(hidden, mask)
    hidden = tower.avg_pooler(hidden.permute(0, 2, 1)).permute(0, 2, 1)
    hidden = tower.layer_norm(hidden)
    return [row[: (length - 2) // 2 + 1] for row, length in zip(hidden, lengths, strict=True)]


def _convolved(frames: int) -> int:
    return (frames - 1) // 2 + 1


def _mask(lengths: Sequence[int], hidden: torch.Tensor) -> torch.Tensor | None:
    """Additive mask [clips, 1, longest, longest] where lengths differ; none where they do not."""
    if len(set(lengths)) == 1:
        return None
    position = torch.arange(hidden.shape[1], device=hidden.device)
    padded = position >= torch.tensor(lengths, device=hidden.device)[:, None]
    mask = torch.zeros(len(lengths), 1, 1, hidden.shape[1], dtype=hidden.dtype, device=hidden.device)
    mask.masked_fill_(padded[:, None, None], torch.finfo(hidden.dtype).min)
    return mask.expand(-1, 1, hidden.shape[1], -1)
