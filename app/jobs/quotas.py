"""How much of the training a tenant may take: jobs that wait, jobs that are kept, bytes on disk, hours of one run."""

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from app.errors import Conflict, QueueFull
from app.jobs.job import Job

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
            told = f"{used / 1e9:.1f} GB, and {self.disk / 1e9:.1f} GB may be (OVERTONE_TENANT_JOBS_GB)"
            raise Conflict(f"Your training jobs take {told}; {way}.")

    def room(self, owner: str | None, used: int, most: int) -> int:
        """Bytes that a new data set may take, ``most`` at most."""
        return most if owner is None else max(0, min(most, self.disk - used))


class Sizes:
    """Bytes of job folders; those of jobs that are over are measured once."""

    def __init__(self) -> None:
        self._known: dict[str, int] = {}

    def of(self, jobs: Iterable[Job], root: Path) -> int:
        """Of the jobs' folders together."""
        total = 0
        for job in jobs:
            size = self._known.get(job.id)
            if size is None:
                size = _size(root / job.id)
                if job.over:
                    self._known[job.id] = size
            total += size
        return total

    def forget(self, identity: str) -> None:
        """It has changed, or is gone."""
        self._known.pop(identity, None)


def _size(folder: Path) -> int:
    """Bytes of all files; those that several jobs share by links count in part in each."""
    total = 0
    for place, _, names in os.walk(folder):
        for name in names:
            try:
                facts = os.lstat(os.path.join(place, name))
            except OSError:  # deleted meanwhile
                continue
            total += facts.st_size // max(1, facts.st_nlink)
    return total
