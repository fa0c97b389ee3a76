"""Copies of small inputs to the device that do not make the host wait.

PyTorch's host allocator reuses a pinned buffer only after the copies from it are complete.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch

_LEAST_POWER, _BUFFERS = 6, 8  # of two: bytes of the smallest buffer; how many of a size


def pinned(values: npt.NDArray[np.int32] | npt.NDArray[np.float32], device: torch.device) -> torch.Tensor:
    """A copy of ``values`` that ``device`` may read while the caller goes on."""
    given = torch.from_numpy(values)
    return torch.empty_like(given, pin_memory=device.type == "cuda").copy_(given)


def warm_up_pinned(most: int, device: torch.device) -> None:
    """Allocate buffers of all sizes up to ``most`` bytes for later use: pinning new memory is slow."""
    if device.type == "cuda":
        sizes = [1 << power for power in range(_LEAST_POWER, most.bit_length() + 1)]
        held = [torch.empty(size, dtype=torch.uint8, pin_memory=True) for size in sizes for _ in range(_BUFFERS)]
        del held


def send(values: Sequence[int], device: torch.device) -> torch.Tensor:
    """Integers as an int64 tensor [n] on ``device``."""
    return pinned(np.asarray(values, dtype=np.int32), device).to(device, non_blocking=True).long()
