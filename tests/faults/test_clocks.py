"""The wall clock is set while the service runs: what waits, counts or tells processes apart does not look at it."""

import itertools
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from app.access.caller import Caller
from app.access.meter import Meter
from app.errors import RateLimited
from app.jobs import command, job
from app.jobs.runner import Jobs
from tests.api.conftest import Running, ask
from tests.api.test_process import ROOT
from tests.jobs.support import STAND_IN, make_jobs, submit, wait_for, wait_for_step
from tests.jobs.test_runner import die

# Who reads the wall clock, and why that is harmless there
READERS = {
    "app/access/keys.py": "when a key was made, for people",
    "app/api/journal.py": "when something happened, for people; entries have numbers of their own",
    "app/api/schemas/openai/chat_response.py": "`created`, as OpenAI has it",
    "app/api/openai/response_writer.py": "`created_at` and `completed_at`, as OpenAI has them",
    "app/api/routes/feedback.py": "when an answer was judged, for people",
    "app/feedback/store.py": "ids in the order of time; retention in days, which a clock set ahead ends early",
    "app/api/dependencies.py": "`created` of the base model, as OpenAI has it",
    "app/api/routes/status.py": "the server's time, for people; uptime is counted apart",
    "app/api/middleware/traces.py": "spans, which other hosts' spans stand beside; their lengths are measured apart",
    "app/jobs/job.py": "when a job was asked for, began and ended, for people; who waited first, after a restart",
    "app/registry/adapter_files/manifest.py": "when an adapter was made, for people; versions have numbers",
    "training/events.py": "when an event was told, for people",
    "training/pretrain/publish.py": "when a model was made, for people",
}
HOUR = 3600.0


def test_nothing_else_reads_the_wall_clock() -> None:
    reading = re.compile(r"\btime\.time(_ns)?\(|\bdatetime\.(now|utcnow|today)\(|\bcreate_time\(|\bboot_time\(")
    found = {
        str(file.relative_to(ROOT))
        for top in ("app", "training")
        for file in (ROOT / top).rglob("*.py")
        if reading.search(file.read_text())
    }
    assert found == set(READERS)


@pytest.fixture
def _jumping(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each look at the wall clock finds it hours away, before or behind."""
    real, hours = time.time, itertools.cycle([0, 5, -30, 2000])
    monkeypatch.setattr(time, "time", lambda: real() + HOUR * next(hours))
    monkeypatch.setattr(time, "time_ns", lambda: int(1e9 * time.time()))


@pytest.mark.usefixtures("_jumping")
async def test_deadlines_and_times_of_requests(running: Running) -> None:
    async with running(request_seconds=300) as client:
        for _ in range(3):
            answer = await ask(client, adapter="alpha")
            timings = answer["timings_ms"]
            assert 0 < timings["ttft"] <= timings["total"] < 300_000
        assert (await client.get("/status")).json()["uptime_seconds"] < HOUR


@pytest.mark.usefixtures("_jumping")
def test_limits_of_a_key() -> None:
    meter, caller = Meter(), Caller("k", per_minute=2)
    for _ in range(2):
        with meter.admitted(caller):
            pass
    for _ in range(4):  # hours forward refill nothing, hours back take nothing
        with pytest.raises(RateLimited) as told, meter.admitted(caller):
            pass
        assert 1 <= told.value.retry_after_s <= 30


@pytest.fixture
def jobs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], Jobs]]:
    monkeypatch.setattr(command, "TRAINER", STAND_IN)
    made: list[Jobs] = []

    def opened() -> Jobs:
        made.append(make_jobs(tmp_path / "jobs"))
        made[-1].open()
        return made[-1]

    yield opened
    for one in made:
        one._grace_s = 0.2
        one.close()


def test_a_trainer_is_found_again_after_the_clock_was_set(jobs: Callable[[], Jobs], monkeypatch) -> None:
    """The system tells a process's start as boot time and what has passed since, and boot time moves with the clock."""
    earlier = jobs()
    identity = submit(earlier, do="silent", until="/nowhere/at/all")
    wait_for_step(earlier, identity)
    die(earlier)
    real = psutil._pslinux.boot_time
    monkeypatch.setattr(psutil._pslinux, "boot_time", lambda: real() - HOUR)
    later = jobs()
    assert later.get(identity).state == "running"
    later.cancel(identity)
    wait_for(later, identity, "cancelled")


def test_who_asks_later_runs_later(jobs: Callable[[], Jobs], monkeypatch, tmp_path: Path) -> None:
    opened = jobs()
    running = submit(opened, do="silent", until=tmp_path / "go")
    wait_for_step(opened, running)
    first = submit(opened, do="silent")
    now = job.now
    monkeypatch.setattr("app.jobs.runner.now", lambda: now().replace(year=2001))
    second = submit(opened, do="silent")
    assert [opened.position(one) for one in (first, second)] == [1, 2]
    opened.cancel(first)
    opened.resume(first)
    assert [opened.position(one) for one in (second, first)] == [1, 2]
