"""Weights in eight bits: one scale per output row; columns that carry flags and biases stay as they are.

The first layer counts with fine weights and stays whole, and so do norms, biases and the tower's positions.
"""

import torch
from torch import Tensor, nn

from training.pretrain.layout import CODES, HEADS_END, HIDDEN, INNER
from training.pretrain.whisper import FFN, WIDTH

LEVELS = 127
FLAGS = range(WIDTH, CODES + 5)  # columns of flags and of the count's code
KEPT: dict[int, tuple[int, ...]] = {HIDDEN: tuple(FLAGS), INNER: (FFN,)}  # by number of input columns
assert HEADS_END in FLAGS  # the seventh head's first column, which carries a bias


def rounds(name: str, weight: Tensor) -> bool:
    """Tell whether a tensor is stored in eight bits."""
    return weight.dim() >= 2 and "language_model.layers.0." not in name and "embed_positions" not in name


def rounded(weight: Tensor) -> Tensor:
    """The weight as it is read back from eight bits."""
    table = weight.flatten(1)
    kept = list(KEPT.get(table.shape[1], ()))
    rest = table.clone()
    rest[:, kept] = 0
    scale = (rest.abs().amax(1, keepdim=True) / LEVELS).clamp(min=1e-8)
    back = (rest / scale).round() * scale
    back[:, kept] = table[:, kept]
    return back.view_as(weight)


def stored_bytes(model: nn.Module) -> int:
    """Size at rest: eight bits where `rounds` says so, a scale per row and the kept columns in fp16, the rest fp16."""
    total = 0
    for name, weight in model.named_parameters():
        if rounds(name, weight):
            columns = weight[0].numel()
            kept = len(KEPT.get(columns, ()))
            total += len(weight) * (columns - kept + 2 * kept + 2)
        else:
            total += 2 * weight.numel()
    return total


class Rounded:
    """Within the block the model's weights are those read back from eight bits; after it they are whole again.

    A step that computes gradients inside and moves the whole weights outside trains for eight bits
    (straight-through estimation).
    """

    def __init__(self, model: nn.Module) -> None:
        """Find the weights concerned."""
        self.weights = [weight for name, weight in model.named_parameters() if rounds(name, weight)]
        self.whole: list[Tensor] = []

    @torch.no_grad()
    def __enter__(self) -> None:
        """Round."""
        self.whole = [weight.detach().clone() for weight in self.weights]
        for weight in self.weights:
            weight.copy_(rounded(weight))

    @torch.no_grad()
    def __exit__(self, *_: object) -> None:
        """Restore."""
        for weight, whole in zip(self.weights, self.whole, strict=True):
            weight.copy_(whole)
        self.whole = []
