"""Memory that a run has taken, and its way on when there is no more."""

import resource
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import torch

from app.models.device_memory import is_out_of_memory

T = TypeVar("T")
R = TypeVar("R")


def peak_gb(device: torch.device) -> float:
    """Of the device, or of this process on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e9
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


def batches_that_fit(
    items: Sequence[T], size: int, compute: Callable[[Sequence[T]], R]
) -> Iterator[tuple[Sequence[T], R]]:
    """``items`` in batches of ``size``, each with what ``compute`` makes of it; of half the size where memory ends.

    Raises what ``compute`` raised when one item alone is too much.
    """
    while items:
        batch = items[:size]
        try:
            computed = compute(batch)
        except Exception as error:
            if not is_out_of_memory(error) or len(batch) == 1:
                raise
            size = len(batch) // 2
        else:
            yield batch, computed
            items = items[len(batch) :]
            continue
        torch.cuda.empty_cache()  # not while the exception is handled: its frames hold what is to be freed
