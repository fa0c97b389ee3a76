"""The mean of several checkpoints' weights.

Weights before and after further training, averaged, are often better than either (model soups,
Wortsman et al. 2022, arXiv:2203.05482; WiSE-FT, arXiv:2109.01903). A request costs no more for it.
"""

from pathlib import Path

import torch

from training.pretrain import folder


@torch.no_grad()
def average(bases: list[Path], target: Path) -> None:
    """Write the mean of the folders' weights, taken in fp32; all else is the first folder's."""
    model, processor = folder.load(bases[0])
    others = [folder.load(base)[0].state_dict() for base in bases[1:]]
    for name, weight in model.state_dict().items():
        weight.copy_(torch.stack([weight, *(other[name] for other in others)]).mean(0))
    folder.save(model, processor, target)
