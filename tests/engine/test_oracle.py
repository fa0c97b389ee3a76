"""Token ids equal plain transformers + PEFT `generate`, each request alone (float32, greedy)."""

import threading

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.engine.driver import NEW, Job
from tests.support import ADAPTERS

pytestmark = pytest.mark.slow

MIXES = [
    (("qv", 0.7), ("rslora", 0.3)),
    (("qv", 0.5), ("qv2", 0.5), ("everything", -0.25)),
    (("tower", 0.6), ("projector-lora", 0.4)),
    (("everything", 0.5),),
]


def singles() -> list[Job]:
    return [Job(((name, 1.0),), (index % 4,), f"say {name}") for index, name in enumerate(ADAPTERS)]


@pytest.mark.parametrize("job", [Job(), *singles(), *[Job(mix, (1,)) for mix in MIXES]], ids=lambda job: str(job.mix))
def test_alone(drive, expected, job):
    (answer,) = drive().ask(job)
    assert answer.tokens == expected(job)


def test_every_adapter_changes_the_answer(expected):
    """The tests above would pass with adapters ignored, were the oracle's answers all the base's."""
    for job in singles():
        assert expected(job) != expected(Job((), job.waves, job.prompt)), job.mix


def test_all_in_one_batch(drive, expected):
    jobs = [Job(), *singles(), *[Job(mix, (1,)) for mix in MIXES], Job((), (1, 2)), Job((), (), "no audio")]
    driver = drive()
    answers = driver.ask(*jobs)
    assert [answer.tokens for answer in answers] == [expected(job) for job in jobs]
    driver.assert_idle()


def test_several_clips_and_text_only(drive, expected):
    jobs = [
        Job((), (0, 1, 2)),
        Job((("tower", 1.0),), (3, 3)),
        Job((), (), "just words"),
        Job((("dora", 1.0),), (1, 0)),
    ]
    assert [answer.tokens for answer in drive().ask(*jobs)] == [expected(job) for job in jobs]


def test_prompts_in_chunks_and_pages_short(drive, expected):
    """Chunks of 24 tokens, pages for about two requests at a time: preempted ones are computed anew."""
    driver = drive(step_tokens=24, blocks=14)
    jobs = [Job((("qv", 1.0),), (index % 4,), f"number {index}") for index in range(6)]
    everybody_is_in_line = threading.Event()
    driver.engine.call(everybody_is_in_line.wait)
    for job in jobs:
        driver.submit(job)
    everybody_is_in_line.set()
    assert [answer.tokens for answer in driver.answers()] == [expected(job) for job in jobs]
    assert driver.engine.scheduler.preemptions > 0
    driver.assert_idle()


POOL = [Job(), Job((), (2,), "other"), *singles(), *[Job(mix, (1,)) for mix in MIXES]]


@settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    st.lists(
        st.tuples(st.integers(0, len(POOL) - 1), st.sampled_from(["ask", "ask", "ask", "cancel", "wait", "free"])),
        min_size=3,
        max_size=14,
    )
)
def test_random_schedules(shared, expected, steps):
    """Joins, leaves, cancels, evictions and unloads in any order; three slots for ten adapters."""
    jobs, cancelled = [], []
    for index, action in steps:
        job = POOL[index]
        request = shared.submit(job)
        jobs.append(job)
        cancelled.append(action == "cancel")
        if action == "cancel":
            shared.engine.cancel(request.id)
        elif action == "wait":
            shared.engine.call(lambda: None).result()
        elif action == "free":
            shared.engine.free_slots().result()
    for job, was_cancelled, answer in zip(jobs, cancelled, shared.answers(), strict=True):
        wanted = expected(job)
        assert answer.error is None
        if was_cancelled:
            assert answer.tokens == wanted[: len(answer.tokens)]
        else:
            assert answer.tokens == wanted
    shared.assert_idle()


@pytest.fixture(scope="module")
def shared(tmp_path_factory, folders):
    from tests.engine.driver import Driver

    driver = Driver(
        tmp_path_factory.mktemp("shared"),
        folders,
        max_resident=3,
        step_tokens=64,
        blocks=40,
        host_cache_bytes=200_000,
    )
    yield driver
    driver.engine.close()


def test_the_base_answers_as_at_start_after_everything(drive, expected):
    driver = drive(max_resident=2)
    (first,) = driver.ask(Job())
    fingerprint = driver.engine.fingerprint().result()
    driver.ask(*singles())
    driver.engine.free_slots().result()
    assert not driver.engine.lora_manager.slots.slots
    (last,) = driver.ask(Job())
    assert last.tokens == first.tokens == expected(Job())
    assert driver.engine.fingerprint().result() == fingerprint
    assert len(first.tokens) <= NEW


def test_a_mix_larger_than_the_host_cache_still_starts(drive, expected):
    job = Job((("qv", 0.5), ("qv2", 0.5), ("everything", -0.25)))
    driver = drive(max_resident=3, host_cache_bytes=1)
    assert [answer.tokens for answer in driver.ask(job, job)] == [expected(job)] * 2
