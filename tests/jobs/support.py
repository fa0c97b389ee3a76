"""What tests of jobs share: the stand-in's command line, its data, and waiting for a state."""

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from app.jobs.command import training_command
from app.jobs.job import Job, Options
from app.jobs.runner import Jobs
from app.jobs.store import JobStore

STAND_IN = (sys.executable, str(Path(__file__).with_name("trainer_program.py")), "train")
HANG: dict[str, Any] = {"do": "silent", "until": "/nowhere/at/all"}  # a plan that never ends


def plan(**fields: Any) -> bytes:
    """A data file that tells the stand-in what to do."""
    return json.dumps(fields, default=str).encode() + b"\n"


def make_jobs(root: Path, limit: int = 1, **changed: Any) -> Jobs:
    """A runner over ``root``, not opened."""
    store = JobStore(root)
    parts: dict[str, Any] = dict(
        command=lambda job: training_command(job, store, root / "registry", "model"),
        environment={},
        shortage=lambda: None,
        published=lambda: None,
        grace_s=5.0,
    )
    return Jobs(store, limit, **(parts | changed))


def submit(jobs: Jobs, name: str = "one", **fields: Any) -> str:
    """Queue a job; its id."""
    with jobs.store.draft() as identity:
        data = jobs.store.data(identity) / "data.jsonl"
        data.write_bytes(plan(**fields))
        return jobs.submit(identity, Options(name=name), str(data)).id


def wait(condition: Callable[[], bool], seconds: float = 120.0) -> None:
    begun = time.monotonic()
    while not condition():
        assert time.monotonic() - begun < seconds, "it took too long"
        time.sleep(0.01)


def wait_for(jobs: Jobs, identity: str, state: str) -> Job:
    """The job once it is in ``state``; any other final state fails at once."""

    def reached() -> bool:
        job = jobs.get(identity)
        assert job.state == state or not job.over, job
        return job.state == state

    wait(reached)
    return jobs.get(identity)


def wait_for_step(jobs: Jobs, identity: str) -> Job:
    """A running job that has written its first checkpoint."""
    wait_for(jobs, identity, "running")
    wait(lambda: (jobs.store.work(identity) / "checkpoint").exists())
    return jobs.get(identity)
