"""Quotas of training per tenant: jobs that wait, jobs that are kept, bytes on disk, hours of one run."""

import math
import os
import time
from collections import Counter, deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from app.errors import Conflict, QueueFull
from app.jobs.job import Job

BLOCK = 4096  # bytes of the disk that any file or folder takes at least
FRESH_S = 10.0  # for which the size of a job that is not over is believed
RETRY_S = 60  # after which a job may have left the queue


@dataclass(frozen=True)
class Use:
    """Jobs of one tenant: ``waiting``, ``kept`` with those that are over, and ``disk`` bytes of their folders."""

    waiting: int
    kept: int
    disk: int


@dataclass(frozen=True)
class Quotas:
    """``waiting`` jobs of one tenant (of all callers without one together); ``hours`` of one run.

    ``kept`` jobs, those that are over included, and ``disk`` bytes of their folders: of one tenant. Callers of no
    tenant are the operator's own and have no quota of these two.
    """

    waiting: int = 32
    kept: int = 500
    disk: int = 100 << 30
    hours: float = 72.0

    def check_waiting(self, waiting: int) -> None:
        """Raises QueueFull where as many wait already."""
        if waiting >= self.waiting:
            message = f"{waiting} training jobs of yours wait, and more may not (OVERTONE_MAX_WAITING_JOBS)"
            raise QueueFull(f"{message}; wait for one, or cancel it.", RETRY_S)

    def check_kept(self, owner: str | None, kept: int, used: int) -> None:
        """Raises Conflict where a tenant's jobs, or their bytes, are as many as may be kept."""
        if owner is None:
            return
        way = "DELETE /training/jobs/{id}?purge=true deletes one that is over"
        if kept >= self.kept:
            raise Conflict(f"{kept} training jobs of yours are kept, and more may not (OVERTONE_KEEP_JOBS); {way}.")
        if used >= self.disk:
            used_of = f"{used / 1e9:.1f} GB, and {self.disk / 1e9:.1f} GB may be (OVERTONE_TENANT_JOBS_GB)"
            raise Conflict(f"Your training jobs take {used_of}; {way}.")

    def bytes_left(self, owner: str | None, used: int, most: int) -> int:
        """Bytes that a new data set may take, ``most`` at most."""
        return most if owner is None else max(0, min(most, self.disk - used))


def by_turns(waiting: Sequence[Job], running: Iterable[str | None], served: Sequence[str | None]) -> list[Job]:
    """Waiting jobs in the order in which they start: per tenant in the order of submission, tenants in turns.

    The tenant with the fewest jobs ``running`` comes first; among equals, the one ``served`` the longest ago.
    """
    queues: dict[str | None, deque[Job]] = {}
    for job in waiting:
        queues.setdefault(job.owner, deque()).append(job)
    busy = Counter(running)
    last = {owner: place for place, owner in enumerate(served)}
    order: list[Job] = []
    while queues:
        owner = min(queues, key=lambda one: (busy[one], last.get(one, -1)))
        order.append(queues[owner].popleft())
        busy[owner] += 1
        last[owner] = len(served) + len(order)
        if not queues[owner]:
            del queues[owner]
    return order


class Sizes:
    """Bytes of job folders; those of jobs that are over are measured once, others after a while again."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[float, int]] = {}  # good until, bytes

    def of(self, jobs: Iterable[Job], root: Path) -> int:
        """Of the jobs' folders together."""
        total = 0
        for job in jobs:
            until, size = self._known.get(job.id, (0.0, 0))
            if until < time.monotonic():
                size = _size(root / job.id)
                self._known[job.id] = (math.inf if job.over else time.monotonic() + FRESH_S, size)
            total += size
        return total

    def invalidate(self, identity: str) -> None:
        """Measure this job again at the next call."""
        self._known.pop(identity, None)


def _size(folder: Path) -> int:
    """Bytes of the disk that all files and folders take; what several jobs share by links counts in part in each."""
    total = 0
    for place, folders, names in os.walk(folder):
        total += BLOCK * len(folders)
        for name in names:
            try:
                facts = os.lstat(os.path.join(place, name))
            except OSError:  # deleted meanwhile
                continue
            total += max(facts.st_size, BLOCK) // max(1, facts.st_nlink)
    return total
