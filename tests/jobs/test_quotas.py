"""What one tenant may take of the training: turns, waiting jobs, kept jobs, bytes and hours."""

from collections.abc import Callable
from typing import Any

import pytest

from app.errors import Conflict, QueueFull
from app.jobs.job import Options
from app.jobs.quotas import Quotas
from app.jobs.runner import Jobs
from tests.jobs.support import HANG, plan, wait, wait_for, wait_for_step

pytestmark = pytest.mark.usefixtures("stand_in")


def ask(jobs: Jobs, owner: str | None, more: bytes = b"", **fields: Any) -> str:
    jobs.check_quota(owner)
    with jobs.store.draft() as identity:
        data = jobs.store.data(identity) / "data.jsonl"
        data.write_bytes(plan(**(fields or HANG)))
        (data.parent / "a.wav").write_bytes(more)
        return jobs.submit(identity, Options(name="one"), str(data), owner).id


def test_tenants_take_turns(opened: Callable[..., Jobs]) -> None:
    jobs = opened()
    acme = [ask(jobs, "acme") for _ in range(4)]
    rival, second = ask(jobs, "rival"), ask(jobs, "rival")
    wait_for_step(jobs, acme[0])
    # acme's first runs: the rival's first is next, and then each has its turn
    order = sorted([*acme[1:], rival, second], key=lambda one: jobs.position(one) or 0)
    assert order == [rival, acme[1], second, acme[2], acme[3]]
    jobs.cancel(acme[0])
    wait_for_step(jobs, rival)
    jobs.cancel(rival)
    wait_for_step(jobs, acme[1])


def test_as_many_wait_as_may(opened: Callable[..., Jobs]) -> None:
    jobs = opened(quotas=Quotas(waiting=2))
    first, second, _ = (ask(jobs, "acme") for _ in range(3))
    with pytest.raises(QueueFull, match="OVERTONE_MAX_WAITING_JOBS"):
        ask(jobs, "acme")
    ask(jobs, "rival")
    ask(jobs, None)
    jobs.cancel(second)
    ask(jobs, "acme")
    with pytest.raises(QueueFull):
        jobs.resume(second)
    wait_for_step(jobs, first)


def test_kept_jobs_and_their_bytes(opened: Callable[..., Jobs]) -> None:
    jobs = opened(quotas=Quotas(kept=2, disk=100_000))
    done = wait_for(jobs, ask(jobs, "acme", b"x" * 40_000, do="crash"), "failed")
    assert 40_000 <= jobs.use("acme").disk < 80_000
    assert jobs.quotas.bytes_left("acme", jobs.use("acme").disk, 1 << 30) < 60_000
    assert jobs.quotas.bytes_left(None, 1 << 40, 1 << 30) == 1 << 30
    other = wait_for(jobs, ask(jobs, "acme", b"x" * 60_000, do="crash"), "failed")
    with pytest.raises(Conflict, match=r"^2 training jobs .*OVERTONE_KEEP_JOBS.*purge=true"):
        ask(jobs, "acme")
    jobs.purge(done.id)
    with jobs.store.draft() as identity:  # a link to what another job has takes nothing twice
        jobs.store.link_data(other, identity)
        assert jobs.use("acme").disk <= 110_000
    ask(jobs, "acme", b"x" * 60_000, do="crash")
    jobs.quotas = Quotas(disk=100_000)
    with pytest.raises(Conflict, match=r"0\.1 GB|OVERTONE_TENANT_JOBS_GB"):
        ask(jobs, "acme")
    ask(jobs, None)


def test_small_files_and_folders_count_as_the_disk_counts_them(opened: Callable[..., Jobs]) -> None:
    """Each takes a block and an inode, however few bytes it has."""
    jobs = opened()
    identity = wait_for(jobs, ask(jobs, "acme", do="crash"), "failed").id  # writes nothing any more
    before = jobs.use("acme").disk
    for number in range(50):
        (folder := jobs.store.data(identity) / str(number)).mkdir()
        (folder / "empty.wav").write_bytes(b"")
    jobs._sizes.invalidate(identity)
    assert jobs.use("acme").disk - before == 100 * 4096


def test_a_run_ends_when_its_time_is_over(opened: Callable[..., Jobs]) -> None:
    jobs = opened(quotas=Quotas(hours=1.5 / 3600))
    late = wait_for(jobs, ask(jobs, "acme"), "interrupted")
    assert "OVERTONE_JOB_HOURS" in str(late.error)
    assert "resume it from its last checkpoint" in str(late.error)
    wait(lambda: not jobs._watches)
    jobs.quotas = Quotas()
    jobs.resume(late.id)
    wait_for_step(jobs, late.id)
