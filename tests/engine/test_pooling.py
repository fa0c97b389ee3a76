"""What heads hear, between the steps of those who decode: in line, in time, and nothing left behind."""

import threading
import time
from concurrent.futures import CancelledError, Future

import pytest
import torch

from app.engine.background import Passes, Task, Tasks
from app.engine.sampling_params import SamplingParams
from app.errors import DeadlineExceeded, EngineFault, NotReady, QueueFull
from app.models.audio_tower import run_tower
from app.models.head import pool
from tests.engine.driver import Job
from tests.support import clips_of, oracle_model, tone

LONG = SamplingParams(max_new_tokens=400, ignore_eos=True)


@pytest.fixture
def clips(loaded):
    """A clip of one recording and two of another, which is longer than the window."""
    return tuple(clips_of(loaded, tone(700, 1.0), tone(800, 4.0)))


def hold(driver) -> threading.Event:
    """Each clip waits for the event before it is heard."""
    go_on, real = threading.Event(), driver.engine.runner.pool

    def moments(clip):
        go_on.wait(30)
        return real(clip)

    driver.engine.runner.pool = moments
    return go_on


def test_what_is_heard_is_the_bases_own_tower(drive, loaded, clips):
    driver = drive()
    driver.submit(Job((("tower", 1.0),), (1,)), LONG)
    heard = driver.engine.pool_audio(clips).result(30)
    outputs = run_tower(oracle_model(loaded).model.audio_tower, [c.mel for c in clips], [c.frames for c in clips])
    frames = torch.cat(outputs)
    assert [part.frames for part in heard.clips] == [clip.tokens for clip in clips]
    torch.testing.assert_close(pool(heard.clips), torch.cat([frames.mean(0), frames.std(0, correction=0)]))
    assert heard.audio > 0 <= heard.queue
    assert driver.answers()[0].done
    driver.assert_idle()


def test_decoding_goes_on_between_the_clips(drive, clips, expected):
    driver = drive()
    driver.submit(Job())
    futures = [driver.engine.pool_audio(clips) for _ in range(5)]
    driver.submit(Job((("qv", 1.0),), (1,)))
    first, second = driver.answers()
    assert first.tokens == expected(Job())
    assert second.tokens == expected(Job((("qv", 1.0),), (1,)))
    heard = [future.result(30) for future in futures]
    assert all(torch.equal(pool(each.clips), pool(heard[0].clips)) for each in heard)
    assert len(driver.engine.pooling) == 0


def test_a_full_line_holds_for_both_kinds(drive, clips):
    driver = drive(max_batch=1, max_queue=2)
    go_on = hold(driver)
    driver.submit(Job(), LONG)
    futures = [driver.engine.pool_audio(clips) for _ in range(2)]
    with pytest.raises(QueueFull):
        driver.engine.pool_audio(clips)
    with pytest.raises(QueueFull):
        driver.submit(Job())
    go_on.set()
    assert all(future.result(30) for future in futures)
    assert driver.answers()[0].done
    assert driver.engine.stats.rejected == 2
    assert driver.engine.pool_audio(clips).result(30)


def test_who_gives_up_is_forgotten_before_the_next_clip(drive, clips):
    driver = drive()
    go_on = hold(driver)
    first, second = driver.engine.pool_audio(clips), driver.engine.pool_audio(clips)
    assert second.cancel()
    assert len(driver.engine.pooling) == 1
    go_on.set()
    assert first.result(30)
    with pytest.raises(CancelledError):
        second.result()
    driver.assert_idle()
    assert len(driver.engine.pooling.tasks) == 0


def test_a_deadline_is_kept_in_line_and_at_work(drive, clips):
    driver = drive()
    go_on = hold(driver)
    at_work = driver.engine.pool_audio(clips, time.monotonic() + 0.1)
    in_line = driver.engine.pool_audio(clips, time.monotonic() + 0.1)
    time.sleep(0.15)
    go_on.set()
    for future in (at_work, in_line):
        with pytest.raises(DeadlineExceeded):
            future.result(30)
    assert driver.engine.stats.failed == 2
    assert len(driver.engine.pooling) == 0


def test_a_fault_is_its_own(drive, clips, expected):
    driver = drive()
    real = driver.engine.runner.pool

    def faulty(clip):
        if clip is clips[1]:
            raise RuntimeError("planted")
        return real(clip)

    driver.engine.runner.pool = faulty
    driver.submit(Job())
    bad, good = driver.engine.pool_audio(clips), driver.engine.pool_audio(clips[:1])
    with pytest.raises(EngineFault, match="others go on") as told:
        bad.result(30)
    assert "planted" not in str(told.value)
    assert good.result(30)
    assert driver.answers()[0].tokens == expected(Job())


def test_drain_waits_for_it_and_close_tells_it(drive, clips):
    driver = drive()
    go_on = hold(driver)
    future = driver.engine.pool_audio(clips)
    assert not driver.engine.drain(0.05)
    with pytest.raises(NotReady):
        driver.engine.pool_audio(clips)
    go_on.set()
    assert driver.engine.drain(30)
    assert future.result()

    driver = drive()
    go_on = hold(driver)
    futures = [driver.engine.pool_audio(clips) for _ in range(3)]
    closing = threading.Thread(target=driver.engine.close)
    closing.start()
    while not driver.engine._stopping:
        time.sleep(0.001)
    go_on.set()
    closing.join(30)
    for future in futures:
        with pytest.raises(NotReady):
            future.result(30)


def test_a_fingerprint_gets_on_beside_a_long_line(drive, clips):
    driver = drive()
    futures = [driver.engine.pool_audio(clips) for _ in range(60)]
    assert driver.engine.fingerprint().result(60) == driver.engine.fingerprint().result(60)
    assert all(future.result(60) for future in futures)


def test_those_who_wait_share_a_pass_that_begins_after_they_asked():
    tasks = Tasks(lambda error: EngineFault(str(error)))
    begun = 0

    def pieces():
        nonlocal begun
        begun += 1
        number = begun
        yield
        if number == 3:
            raise ValueError("x")
        yield
        return number

    passes = Passes(tasks, pieces)
    asked = [Future() for _ in range(40)]
    passes.ask(asked[0])
    tasks.advance()  # the first has begun: what it saw is older than what the others ask for
    for future in asked[1:20]:
        passes.ask(future)
    asked[5].cancel()
    while not asked[0].done():
        tasks.advance()
        assert len(tasks) <= 1
    assert (asked[0].result(0), begun) == (1, 1)
    tasks.advance()
    for future in asked[20:]:
        passes.ask(future)
    while len(tasks):
        tasks.advance()
    assert {future.result(0) for future in asked[1:20] if not future.cancelled()} == {2}
    for future in asked[20:]:
        with pytest.raises(EngineFault):
            future.result(0)
    assert begun == 3
    passes.ask(last := Future())
    tasks.fail_all(NotReady("over"))
    with pytest.raises(NotReady):
        last.result(0)
    assert len(tasks) == 0


def test_tasks_take_turns():
    said: list[str] = []

    def pieces(name: str, count: int):
        for _ in range(count - 1):
            said.append(name)
            yield
        said.append(name)
        return name

    tasks = Tasks(lambda error: EngineFault(str(error)))
    made = [Task(pieces(name, count)) for name, count in (("a", 3), ("b", 1), ("c", 2))]
    for task in made:
        tasks.add(task)
    while len(tasks):
        tasks.advance()
    assert "".join(said) == "abcaca"
    assert [task.future.result(0) for task in made] == ["a", "b", "c"]
