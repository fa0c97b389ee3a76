"""Events of the service, found by comparing its state with an earlier one."""

import threading
from collections import deque
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Literal

from pydantic import BaseModel, Field

from app.jobs.runner import Jobs
from app.service import Service

KEPT = 500  # entries
Topic = Literal["adapter", "broken", "active", "pinned", "resident", "job", "failed", "rejected"]
Facts = Mapping[tuple[Topic, str], str]


class Entry(BaseModel):
    """One change. ``before`` is absent for what is new, ``after`` for what is gone."""

    number: int = Field(description="counts from 1 since start; ask for those after it")
    time: datetime
    topic: Topic = Field(
        description="`adapter`: served, in a version; `broken`: cannot be served; `active`: the default; `pinned`; "
        "`resident`: in a slot; `job`: a training job's state; `failed`, `rejected`: requests since start"
    )
    subject: str = Field(examples=["nato"])
    before: str | None = None
    after: str | None = None


class Journal:
    """The latest entries. Safe to use from any thread."""

    def __init__(self) -> None:
        self._entries: deque[Entry] = deque(maxlen=KEPT)
        self._facts: Facts | None = None
        self._count = 0
        self._lock = threading.Lock()

    def look(self, service: Service, jobs: Jobs | None) -> None:
        """Note what has changed since the last look; the first one only sees how things stand."""
        with self._lock:
            facts = dict(_facts(service, jobs))
            if self._facts is not None:
                self._note(self._facts, facts)
            self._facts = facts

    def after(self, number: int) -> list[Entry]:
        """The entries beyond ``number``, oldest first."""
        with self._lock:
            return [entry for entry in self._entries if entry.number > number]

    def _note(self, before: Facts, after: Facts) -> None:
        now = datetime.now(UTC)
        for key in sorted(before.keys() | after.keys()):
            if before.get(key) != after.get(key):
                self._count += 1
                topic, subject = key
                self._entries.append(
                    Entry(
                        number=self._count,
                        time=now,
                        topic=topic,
                        subject=subject,
                        before=before.get(key),
                        after=after.get(key),
                    )
                )


def _facts(service: Service, jobs: Jobs | None) -> Iterator[tuple[tuple[Topic, str], str]]:
    """The state whose changes become entries."""
    registry, snapshot, stats = service.registry, service.engine.snapshot, service.engine.stats
    yield from ((("adapter", adapter.name), str(adapter.version)) for adapter in registry.all())
    yield from ((("broken", name), "; ".join(problems)) for name, problems in registry.broken().items())
    if service.adapters.active is not None:
        yield ("active", service.adapters.active), "yes"
    yield from ((("pinned", name), "yes") for name in snapshot.pinned)
    yield from ((("resident", uid), "yes") for uid in snapshot.resident)
    for job in jobs.all() if jobs else ():
        yield ("job", f"{job.options.name} ({job.id})"), job.state
    yield ("failed", "requests"), str(stats.failed)
    yield ("rejected", "requests"), str(stats.rejected)
