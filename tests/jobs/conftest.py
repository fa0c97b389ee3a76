"""A stand-in for the trainer, and runners over one folder."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from app.jobs import command
from app.jobs.runner import Jobs
from tests.jobs.support import STAND_IN, make_jobs


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    """The stand-in's command line takes the trainer's place."""
    monkeypatch.setattr(command, "TRAINER", STAND_IN)


@pytest.fixture
def opened(tmp_path: Path, stand_in: None) -> Iterator[Callable[..., Jobs]]:
    """Opens runners over one folder; all are closed at the end."""
    made: list[Jobs] = []

    def open_jobs(**changed: Any) -> Jobs:
        jobs = make_jobs(tmp_path / "jobs", **changed)
        jobs.open()
        made.append(jobs)
        return jobs

    yield open_jobs
    for jobs in made:
        jobs._grace_s = 0.2
        jobs.close()
