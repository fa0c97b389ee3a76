"""One process or several (`accelerate launch … -m training train …`), which share each step's rows."""

import os
import time
from collections.abc import Sequence
from datetime import timedelta
from typing import Any, TypeVar

import torch
from torch import distributed

from app.errors import BadRequest
from app.models.loading import pick_device
from training.events import TrainingFailed

T = TypeVar("T")
PATIENCE = timedelta(hours=2)  # for the first process, while it alone reads, answers or downloads
GRACE_S = 15.0  # for the others' step, once this process was asked to stop; launchers kill after 30
LOOK_S = 0.0005
SEEDS_APART = 1_000_003


class Workers:
    """``rank`` of ``count`` processes. Alone, everything here does nothing.

    All processes call the same methods in the same order, `share` excepted. Each raises TrainingFailed when another
    process has ended.
    """

    def __init__(self) -> None:
        self.rank = distributed.get_rank() if distributed.is_initialized() else 0
        self.count = distributed.get_world_size() if distributed.is_initialized() else 1
        self.told_to_stop: float | None = None  # monotonic seconds
        self._launcher = os.getppid()
        nccl = self.count > 1 and distributed.get_backend() == "nccl"
        self._device = torch.device("cuda", torch.cuda.current_device()) if nccl else torch.device("cpu")

    @property
    def first(self) -> bool:
        """True if this is the process that reads, reports and publishes for all."""
        return self.rank == 0

    @property
    def orphaned(self) -> bool:
        """True if the launcher was killed, which leaves its processes running."""
        return self.count > 1 and os.getppid() != self._launcher

    def share(self, things: Sequence[T]) -> Sequence[T]:
        """This process's part of ``things``; together the processes have each once."""
        return things[self.rank :: self.count]

    def seed(self, seed: int) -> None:
        """Give every process but the first random numbers of its own: other dropout for other rows."""
        if self.rank:
            torch.manual_seed(seed + SEEDS_APART * self.rank)

    def spread(self, parameters: Sequence[torch.nn.Parameter]) -> None:
        """Give all processes the first one's values."""
        if self.count == 1:
            return
        flat = torch.cat([parameter.detach().flatten() for parameter in parameters])
        self._wait(distributed.broadcast(flat, 0, async_op=True))
        with torch.no_grad():
            for parameter, values in zip(parameters, _split(flat, parameters), strict=True):
                parameter.copy_(values)

    def add_gradients(self, parameters: Sequence[torch.nn.Parameter]) -> None:
        """Sum the gradients over all processes; one that had no rows counts as zero."""
        if self.count == 1:
            return
        flat = torch.cat(
            [(p.grad if p.grad is not None else torch.zeros_like(p)).detach().flatten() for p in parameters]
        )
        self._wait(distributed.all_reduce(flat, async_op=True))
        for parameter, gradient in zip(parameters, _split(flat, parameters), strict=True):
            parameter.grad = gradient

    def add(self, value: float) -> float:
        """Sum a number over all processes."""
        return self._reduced(value, distributed.ReduceOp.SUM)

    def most(self, value: float) -> float:
        """The largest of all processes' numbers."""
        return self._reduced(value, distributed.ReduceOp.MAX)

    def broadcast(self, thing: T) -> T:
        """The first process's value, given to all."""
        if self.count == 1:
            return thing
        self.meet()
        shared: list[Any] = [thing if self.first else None]
        distributed.broadcast_object_list(shared, 0, device=self._device)
        found: T = shared[0]
        return found

    def gather(self, thing: T) -> list[T]:
        """The values of all processes, given to all."""
        if self.count == 1:
            return [thing]
        self.meet()
        found: list[Any] = [None] * self.count
        distributed.all_gather_object(found, thing)
        return found

    def meet(self) -> None:
        """Wait for all."""
        self.add(0)

    def leave(self) -> None:
        """Wait for all, and part."""
        if self.count > 1:
            self.meet()
            distributed.destroy_process_group()

    def _reduced(self, value: float, how: Any) -> float:
        if self.count == 1:
            return value
        total = torch.tensor(value, dtype=torch.float64, device=self._device)
        self._wait(distributed.all_reduce(total, how, async_op=True))
        return float(total)

    def _wait(self, work: Any) -> None:
        """Wait awake: a thread that sleeps in NCCL sees no signal, and those of a dead process wait for ever."""
        try:
            while not work.is_completed():
                if self.told_to_stop and time.monotonic() - self.told_to_stop > GRACE_S:
                    raise TrainingFailed(_lost("it does not answer"))
                time.sleep(LOOK_S)
            work.wait()
        except RuntimeError as error:
            reason, _, _ = str(error).partition(". ")  # the rest of gloo's is a page
            raise TrainingFailed(_lost(reason)) from error


def launched() -> tuple[int, int]:
    """Rank and number of the processes that a launcher started; (0, 1) without one."""
    from accelerate.utils import get_int_from_env

    return get_int_from_env(["RANK"], 0), get_int_from_env(["WORLD_SIZE"], 1)


def join(device: str) -> torch.device:
    """This process's device; joins the others where a launcher started several. Raises BadRequest."""
    from accelerate import PartialState
    from accelerate.utils import get_int_from_env

    _, count = launched()
    found = pick_device(device)
    if count == 1:
        return found
    if found.index is not None:
        raise BadRequest(f"--device {device} names one GPU, but there are {count} processes: leave it out.")
    here = get_int_from_env(["LOCAL_WORLD_SIZE"], count)
    if found.type == "cuda" and here > torch.cuda.device_count():
        raise BadRequest(f"{here} processes were started for {torch.cuda.device_count()} GPUs; one a GPU is right.")
    joined: torch.device = PartialState(cpu=found.type == "cpu", timeout=PATIENCE).device
    return joined if found.type == "cuda" else found


def _split(flat: torch.Tensor, parameters: Sequence[torch.nn.Parameter]) -> list[torch.Tensor]:
    parts = torch.split(flat, [parameter.numel() for parameter in parameters])
    return [part.view_as(parameter) for part, parameter in zip(parts, parameters, strict=True)]


def _lost(why: str) -> str:
    return (
        f"Another process of this run has ended ({why}); its own words, or the launcher's, name the reason. "
        "The same command goes on from the last checkpoint."
    )
