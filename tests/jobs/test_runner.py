"""Jobs as real processes: order, ends, cancelling, and a service that stops or dies in every state."""

import errno
import os
import signal
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from app.errors import Conflict, NotFound, StorageError
from app.jobs.process import NICENESS, Child
from app.jobs.runner import Jobs
from app.jobs.store import JobStore
from tests.commands import ROOT
from tests.jobs.support import HANG, make_jobs, submit, wait, wait_for, wait_for_step

pytestmark = pytest.mark.usefixtures("stand_in")


def die(jobs: Jobs) -> None:
    """What `kill -9` of the service leaves: nobody watches, nothing is written any more, the folder is free."""
    jobs.closing = True
    jobs.store.save = lambda job: None  # type: ignore[method-assign]
    jobs.store.close()


def test_one_runs_and_one_waits(opened: Callable[..., Jobs], tmp_path: Path) -> None:
    jobs = opened()
    first = submit(jobs, do="silent", until=tmp_path / "go")
    second, third = submit(jobs, do="silent"), submit(jobs, do="silent")
    wait_for_step(jobs, first)
    assert [jobs.position(one) for one in (first, second, third)] == [None, 1, 2]
    assert [job.id for job in jobs.all()] == [third, second, first]
    assert jobs.counts()["running"] == 1
    assert jobs.counts()["queued"] == 2
    jobs.cancel(second)
    assert jobs.position(third) == 1
    (tmp_path / "go").touch()
    # a trainer that ends well but tells of no adapter has not done what was asked
    assert "published no adapter" in str(wait_for(jobs, first, "failed").error)
    wait_for(jobs, third, "failed")
    assert jobs.get(second).state == "cancelled"
    assert jobs.get(second).started is None


def test_two_at_a_time(opened: Callable[..., Jobs]) -> None:
    jobs = opened(limit=2)
    for identity in [submit(jobs, **HANG), submit(jobs, **HANG)]:
        wait_for_step(jobs, identity)


@pytest.mark.parametrize(
    ("do", "state", "code", "words"),
    [
        ("crash", "failed", 1, "RuntimeError: CUDA out of memory, so to speak"),
        ("fail", "failed", 1, "The loss is not finite."),
        ("vanish", "failed", -9, "killed by SIGKILL (out of memory?)"),
        ("refuse", "refused", 2, "The data was refused."),
    ],
)
def test_ends(opened: Callable[..., Jobs], do: str, state: str, code: int, words: str) -> None:
    jobs = opened()
    job = wait_for(jobs, submit(jobs, do=do), state)
    assert job.exit_code == code
    assert words in str(job.error)
    assert job.pid is None
    if do == "refuse":
        assert job.told.problems == ["2 rows have no audio"]
        assert job.told.gate == {"ok": False, "report": {"rows": 1}}
    with pytest.raises(Conflict, match="only one that is cancelled or interrupted"):
        jobs.resume(job.id)


def test_a_trainer_that_cannot_be_started(opened: Callable[..., Jobs]) -> None:
    def broken(_: object) -> list[str]:
        raise OSError(errno.EAGAIN, "no more processes")

    jobs = opened(command=broken)
    assert "no more processes" in str(wait_for(jobs, submit(jobs), "failed").error)


def test_a_trainer_that_is_not_there(opened: Callable[..., Jobs]) -> None:
    jobs = opened(command=lambda _: ["/nowhere/trainer"])
    assert "No such file" in str(wait_for(jobs, submit(jobs), "failed").error)


def test_cancel_and_resume_from_the_checkpoint(opened: Callable[..., Jobs], tmp_path: Path) -> None:
    jobs = opened()
    identity = submit(jobs, do="fail", steps=3, until=tmp_path / "go")
    process = psutil.Process(wait_for_step(jobs, identity).pid)
    assert process.nice() == min(19, os.nice(0) + NICENESS)
    assert os.getpgid(process.pid) == process.pid
    jobs.cancel(identity)
    job = wait_for(jobs, identity, "cancelled")
    assert job.exit_code == 143
    assert not process.is_running()
    with pytest.raises(Conflict, match="purge"):
        jobs.cancel(identity)
    (tmp_path / "go").touch()
    again = jobs.resume(identity)
    assert (again.error, again.exit_code, again.asked) == (None, None, None)
    job = wait_for(jobs, identity, "failed")
    assert job.told.started is not None
    assert job.told.started["resumed_from"] == 1
    assert job.told.progress is not None
    assert job.told.progress["loss"] is None  # NaN is no JSON


def test_one_that_ignores_sigterm_is_killed(opened: Callable[..., Jobs]) -> None:
    jobs = opened(grace_s=0.3)
    identity = submit(jobs, do="stubborn", until="/nowhere/at/all")
    wait_for_step(jobs, identity)
    jobs.cancel(identity)
    assert jobs.get(identity).asked == "cancelled"
    assert wait_for(jobs, identity, "cancelled").exit_code == -signal.SIGKILL


def test_sigterm_from_elsewhere_is_an_interruption(opened: Callable[..., Jobs]) -> None:
    jobs = opened()
    identity = submit(jobs, **HANG)
    os.kill(int(wait_for_step(jobs, identity).pid or 0), signal.SIGTERM)
    assert wait_for(jobs, identity, "interrupted").exit_code == 143


def test_a_stop_of_the_service_interrupts(opened: Callable[..., Jobs], tmp_path: Path) -> None:
    jobs = opened()
    running, queued = submit(jobs, do="fail", until=tmp_path / "go"), submit(jobs, **HANG)
    process = psutil.Process(wait_for_step(jobs, running).pid)
    jobs.close()
    assert not process.is_running()
    assert (jobs.get(running).state, jobs.get(queued).state) == ("interrupted", "queued")
    later = opened()
    assert later.get(running).state == "interrupted"
    wait_for_step(later, queued)
    (tmp_path / "go").touch()
    assert later.resume(running).state == "queued"
    later.cancel(queued)
    wait_for(later, running, "failed")


def test_a_running_job_is_adopted(opened: Callable[..., Jobs], tmp_path: Path) -> None:
    """Its exit code is not ours to read; what it told decides."""
    earlier = opened()
    identity, next_one = submit(earlier, do="fail", until=tmp_path / "go"), submit(earlier, **HANG)
    pid = wait_for_step(earlier, identity).pid
    die(earlier)
    jobs = opened()
    assert (jobs.get(identity).state, jobs.get(identity).pid) == ("running", pid)
    assert jobs.position(next_one) == 1
    (tmp_path / "go").touch()
    job = wait_for(jobs, identity, "failed")
    assert (job.exit_code, job.error) == (None, "The loss is not finite.")
    wait_for(jobs, next_one, "running")


@pytest.mark.parametrize("noted", [True, False])
def test_an_adopted_job_can_be_cancelled(opened: Callable[..., Jobs], noted: bool) -> None:
    """Also one whose number the service had no time to note."""
    earlier = opened()
    identity = submit(earlier, **HANG)
    job = wait_for_step(earlier, identity)
    if not noted:
        earlier.store.save(job.model_copy(update={"pid": None}))
    die(earlier)
    jobs = opened()
    assert jobs.get(identity).state == "running"
    jobs.cancel(identity)
    wait_for(jobs, identity, "cancelled")


@pytest.mark.parametrize(
    ("last", "state"),
    [
        ('{"event": "done", "adapter": {"name": "one", "version": 3}, "metrics": {}}', "succeeded"),
        ('{"event": "error", "message": "The loss is not finite."}', "failed"),
        ('{"event": "gate", "ok": false, "report": {}}\n{"event": "error", "message": "no"}', "refused"),
        ('{"event": "step", "step": 4}\n{"event": "do', "interrupted"),
    ],
)
def test_one_that_ended_while_no_service_ran(
    opened: Callable[..., Jobs], tmp_path: Path, last: str, state: str
) -> None:
    earlier = opened()
    identity = submit(earlier, **HANG)
    pid = int(wait_for_step(earlier, identity).pid or 0)
    die(earlier)
    os.kill(pid, signal.SIGKILL)
    wait(lambda: not psutil.pid_exists(pid))
    with earlier.store.events(identity).open("a") as stream:
        stream.write(last + "\n" * (state != "interrupted"))
    seen: list[bool] = []
    jobs = opened(published=lambda: seen.append(True))
    job = jobs.get(identity)
    assert (job.state, job.exit_code, seen) == (state, None, [True] if state == "succeeded" else [])


def test_another_process_with_its_number_is_not_taken_for_it(opened: Callable[..., Jobs]) -> None:
    earlier = opened()
    identity = submit(earlier, **HANG)
    job = wait_for_step(earlier, identity)
    os.kill(int(job.pid or 0), signal.SIGKILL)
    wait_for(earlier, identity, "failed")
    earlier.store.save(job.model_copy(update={"state": "running", "pid": os.getpid()}))
    die(earlier)
    assert opened().get(identity).state == "interrupted"


def test_only_one_service_runs_a_folder(opened: Callable[..., Jobs], tmp_path: Path) -> None:
    opened()
    with pytest.raises(Conflict, match="Another service"):
        make_jobs(tmp_path / "jobs").open()


def test_half_made_and_unreadable_folders(opened: Callable[..., Jobs], caplog: pytest.LogCaptureFixture) -> None:
    earlier = opened()
    kept = submit(earlier, do="fail")
    wait_for(earlier, kept, "failed")
    earlier.close()
    root = earlier.store.root
    half, odd, foreign = root / "20260101-000000-00000000", root / "20260101-000000-00000001", root / "notes"
    for folder in (half, odd, foreign):
        folder.mkdir()
    (odd / "job.json").write_text("{")
    jobs = opened()
    assert [job.id for job in jobs.all()] == [kept]
    assert (half.exists(), odd.exists(), foreign.exists()) == (False, True, True)
    assert "cannot be read" in caplog.text


def test_purge(opened: Callable[..., Jobs]) -> None:
    jobs = opened()
    running, over = submit(jobs, **HANG), submit(jobs, **HANG)
    jobs.cancel(over)
    jobs.purge(over)
    assert not jobs.store.folder(over).exists()
    for call in (jobs.get, jobs.cancel, jobs.resume, jobs.purge):
        with pytest.raises(NotFound, match="GET /training/jobs"):
            call(over)
    with pytest.raises(Conflict, match="cancel it first"):
        jobs.purge(running)


def test_a_full_disk(
    opened: Callable[..., Jobs], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    jobs = opened()
    running = submit(jobs, **HANG)
    wait_for_step(jobs, running)

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageError, match="No space left on device"):
        submit(jobs, **HANG)
    assert len(jobs.all()) == len([path for path in jobs.store.root.iterdir() if path.is_dir()]) == 1
    jobs.cancel(running)  # what is true stays true in memory
    wait_for(jobs, running, "cancelled")
    assert "could not be written" in caplog.text


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "jobs").write_text("a file")
    with pytest.raises(StorageError, match="could not be written"):
        JobStore(tmp_path / "jobs").open()


def test_no_room_on_the_device(opened: Callable[..., Jobs]) -> None:
    jobs = opened(shortage=lambda: "no room")
    with pytest.raises(Conflict, match="no room"):
        jobs.check_memory()
    assert wait_for(jobs, submit(jobs, **HANG), "refused").error == "no room"


def test_the_temporary_folder_of_a_killed_trainer_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    temporary = tmp_path / "t"
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    lines = "import time; from app.audio import forkserver; forkserver.preload(('json',)); time.sleep(600)"
    environment = os.environ | {"TMPDIR": str(temporary), "PYTHONPATH": str(ROOT)}
    child = Child.start([sys.executable, "-c", lines], tmp_path / "log", environment)
    wait(lambda: any(temporary.glob("pymp-*/overtone-decoders")))
    child.stop(0.0)
    assert child.wait() is not None
    assert list(temporary.iterdir()) == []
