"""One process or several (`accelerate launch -m training …`), which share each step's micro-batches."""

from collections.abc import Sequence
from datetime import timedelta

import torch
from torch import distributed

from app.model.base import pick_device

PATIENCE = timedelta(hours=2)  # for the first process, while it alone writes or downloads


class Workers:
    """``rank`` of ``count`` processes. Alone, everything here does nothing."""

    def __init__(self) -> None:
        self.rank = distributed.get_rank() if distributed.is_initialized() else 0
        self.count = distributed.get_world_size() if distributed.is_initialized() else 1

    def add_gradients(self, parameters: Sequence[torch.nn.Parameter]) -> None:
        """Sum the gradients over all processes; one that had no micro-batch counts as zero."""
        if self.count == 1:
            return
        flat = torch.cat(
            [(p.grad if p.grad is not None else torch.zeros_like(p)).detach().flatten() for p in parameters]
        )
        distributed.all_reduce(flat)
        for parameter, gradient in zip(parameters, torch.split(flat, [p.numel() for p in parameters]), strict=True):
            parameter.grad = gradient.view_as(parameter)

    def add(self, value: float) -> float:
        """Sum a number over all processes."""
        if self.count == 1:
            return value
        device = torch.device("cuda", torch.cuda.current_device()) if distributed.get_backend() == "nccl" else None
        total = torch.tensor(value, dtype=torch.float64, device=device)
        distributed.all_reduce(total)
        return float(total)


def join(device: str) -> torch.device:
    """This process's device; joins the others where `accelerate launch` started several."""
    from accelerate import PartialState
    from accelerate.utils import get_int_from_env

    if get_int_from_env(["WORLD_SIZE"], 1) == 1:
        return pick_device(device)
    joined: torch.device = PartialState(cpu=device == "cpu", timeout=PATIENCE).device
    return joined
