"""A request's life: limits, stops, cancels, deadlines, faults; nothing is left behind."""

import shutil
import threading
import time
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from app.engine.runner import Runner
from app.engine.sampling_params import SamplingParams
from app.errors import (
    AdapterNotFound,
    BadRequest,
    Conflict,
    DeadlineExceeded,
    EngineFault,
    NotReady,
    OutOfMemory,
    PromptTooLong,
    QueueFull,
)
from tests.engine.driver import Job

pytestmark = pytest.mark.slow


def test_length_and_usage(drive):
    (answer,) = drive().ask(Job(), sampling=SamplingParams(max_new_tokens=5, ignore_eos=True))
    assert answer.done.finish_reason == "length"
    assert len(answer.tokens) == answer.done.completion_tokens == 5
    assert answer.done.audio_tokens > 0
    assert answer.done.prompt_tokens > answer.done.audio_tokens
    timings = answer.done.timings
    assert 0 < timings.ttft <= timings.total
    assert timings.audio > 0


def test_a_stop_string_ends_the_answer_before_it(drive):
    driver = drive()
    (whole,) = driver.ask(Job())
    assert len(whole.text) > 4
    stop = whole.text[2:4]
    (cut,) = driver.ask(Job(), sampling=SamplingParams(max_new_tokens=20, stop=(stop,)))
    assert cut.text == whole.text.partition(stop)[0] == cut.done.text
    assert cut.done.finish_reason == "stop"


def test_a_seed_is_reproducible_whatever_the_batch(drive):
    driver = drive()
    sampling = SamplingParams(max_new_tokens=12, temperature=1.0, top_p=0.9, seed=7, ignore_eos=True)
    (alone,) = driver.ask(Job(), sampling=sampling)
    driver.submit(Job((("qv", 1.0),), (1,)))
    driver.submit(Job(), sampling)
    driver.submit(Job((("everything", 1.0),), (2,)))
    assert driver.answers()[1].tokens == alone.tokens
    (other,) = driver.ask(
        Job(), sampling=SamplingParams(max_new_tokens=12, temperature=1.0, top_p=0.9, seed=8, ignore_eos=True)
    )
    assert other.tokens != alone.tokens


@pytest.mark.parametrize("mix", [(), (("qv", 1.0),), (("dora", 1.0),)])
def test_cancel_frees_everything_at_once(drive, mix):
    driver = drive()
    request = driver.submit(Job(mix), SamplingParams(max_new_tokens=1500, ignore_eos=True))
    time.sleep(0.1)
    driver.engine.cancel(request.id)
    (answer,) = driver.answers()
    assert answer.done.finish_reason == "cancelled"
    assert answer.done.completion_tokens < 1500
    driver.assert_idle()


def test_a_deadline_is_kept(drive):
    driver = drive()
    driver.submit(Job(), SamplingParams(max_new_tokens=1500, ignore_eos=True), deadline=time.monotonic() + 0.1)
    (answer,) = driver.answers()
    assert isinstance(answer.error, DeadlineExceeded)
    driver.assert_idle()


def test_what_could_never_run_is_refused_at_once(drive):
    driver = drive(blocks=8, max_queue=4)
    with pytest.raises(PromptTooLong, match="room for 128"):
        driver.submit(Job((), (0, 1, 2, 3), "long " * 30))
    with pytest.raises(BadRequest, match="ask for at most"):
        driver.submit(Job(), SamplingParams(max_new_tokens=500))
    with pytest.raises(BadRequest, match="cannot be mixed"):
        driver.submit(Job((("dora", 0.5), ("qv", 0.5))))


def test_a_full_queue_says_so(drive):
    driver = drive(max_batch=1, max_queue=2)
    for _ in range(3):
        driver.submit(Job(), SamplingParams(max_new_tokens=200, ignore_eos=True))
    with pytest.raises(QueueFull):
        driver.submit(Job())
    assert all(answer.done for answer in driver.answers())
    (answer,) = driver.ask(Job())
    assert answer.done


def test_an_exception_in_a_step_harms_its_own_request_alone(drive, expected):
    driver = drive()
    runner = driver.engine.runner
    original = runner._audio_of

    def faulty(chunk):
        if len(chunk.sequence.request.clips) == 2:
            raise RuntimeError("planted")
        return original(chunk)

    runner._audio_of = faulty
    bad, good, neighbour = driver.ask(Job((), (0, 1)), Job(), Job((("qv", 1.0),), (1,)))
    assert isinstance(bad.error, EngineFault)
    assert "planted" not in str(bad.error)
    assert good.tokens == expected(Job())
    assert neighbour.tokens == expected(Job((("qv", 1.0),), (1,)))
    driver.assert_idle()


def test_drain_lets_running_requests_end_and_takes_no_more(drive):
    driver = drive()
    driver.submit(Job())
    assert driver.engine.drain(30)
    with pytest.raises(NotReady):
        driver.submit(Job())
    (answer,) = driver.answers()
    assert answer.done


def test_close_fails_what_is_left(drive):
    driver = drive()
    driver.submit(Job(), SamplingParams(max_new_tokens=1500, ignore_eos=True))
    driver.engine.close()
    (answer,) = driver.answers()
    assert isinstance(answer.error, NotReady)


def test_a_repeated_clip_is_encoded_once_and_shared_where_the_tower_is_left_alone(drive):
    driver = drive()
    driver.ask(Job((), (2,)))
    driver.ask(Job((("qv", 1.0),), (2,)))
    encoder = driver.engine.runner.encoder
    assert (encoder.hits, encoder.misses) == (1, 1)
    driver.ask(Job((("tower", 1.0),), (2,)))
    assert encoder.misses == 2


def test_pins_that_leave_no_slot_are_told_and_block_nobody(drive, expected):
    driver = drive(max_resident=1)
    driver.engine.lora_manager.slots.pinned.add("qv")
    driver.ask(Job((("qv", 1.0),)))
    refused, fine = driver.ask(Job((("rslora", 1.0),)), Job((("qv", 1.0),)))
    assert isinstance(refused.error, Conflict)
    assert "unpin" in str(refused.error)
    assert fine.tokens == expected(Job((("qv", 1.0),)))


def test_a_receiver_that_fails_ends_its_own_request_alone(drive, expected):
    driver = drive()

    def failing(event):
        raise RuntimeError("planted")

    request = driver.submit(Job((), (1,)), SamplingParams(max_new_tokens=500, ignore_eos=True))
    driver.engine._sequences.get(request.id).request = replace(request, emit=failing)
    good, other = (driver.submit(job) for job in (Job(), Job((("dora", 1.0),))))
    driver._queues.pop(0)
    answers = driver.answers()
    assert [answer.tokens for answer in answers] == [expected(Job()), expected(Job((("dora", 1.0),)))]
    assert good.id != other.id
    driver.assert_idle()


def test_a_failed_step_is_repeated_rightly_for_adapters_served_alone(drive, expected):
    """One of two alone sequences fails after the other has stepped: its cache must not hold a token twice."""
    driver = drive()
    alone = driver.engine.runner.peft_fallback
    original, failures = alone.step, []

    def faulty(sequence, tokens, cache):
        if len(sequence.request.clips) == 2 and sequence.new_tokens == 3:
            failures.append(sequence)
            raise RuntimeError("planted")
        return original(sequence, tokens, cache)

    alone.step = faulty
    job = Job((("dora", 1.0),), (1,))
    good, bad = driver.ask(job, Job((("dora", 1.0),), (0, 1)))
    assert failures
    assert isinstance(bad.error, EngineFault)
    assert good.tokens == expected(job)
    driver.assert_idle()


def test_an_adapter_that_fails_to_load_leaves_nothing_behind(drive, expected):
    driver = drive()
    bank = driver.engine.runner.bank
    layer = list(bank._layers.values())[-3]
    original = layer.grow

    def out_of_memory(columns):
        raise MemoryError("planted")

    layer.grow = out_of_memory
    everything = Job((("everything", 1.0),))
    failed, fine = driver.ask(everything, Job())
    layer.grow = original
    assert isinstance(failed.error, OutOfMemory)
    assert fine.tokens == expected(Job())
    assert not driver.engine.lora_manager.slots.slots
    assert driver.ask(everything)[0].tokens == expected(everything)
    driver.assert_idle()


def test_a_classify_error_the_engine_itself_is_told_and_survived(drive, expected):
    driver = drive()
    scheduler = driver.engine.scheduler
    original = scheduler.schedule

    def broken(admissions):
        scheduler.schedule = original
        raise RuntimeError("planted")

    scheduler.schedule = broken
    driver.submit(Job())
    answers = driver.answers()
    assert answers[0].error is None or isinstance(answers[0].error, EngineFault)
    assert driver.ask(Job())[0].tokens == expected(Job())
    driver.assert_idle()


def test_an_engine_that_cannot_warm_up_does_not_start(drive, monkeypatch):
    def out_of_memory(runner):
        raise MemoryError("planted")

    monkeypatch.setattr(Runner, "warm_up", out_of_memory)
    before = threading.active_count()
    with pytest.raises(MemoryError, match="planted"):
        drive()
    assert threading.active_count() == before


def test_a_fingerprint_ends_soon_while_a_stream_runs(drive, monkeypatch):
    """A tensor a turn would be a step for each; with a tenth of the time of each turn it is a few steps."""
    launch = Runner.launch
    monkeypatch.setattr(Runner, "launch", lambda self, chunks: time.sleep(0.02) or launch(self, chunks))
    driver = drive()
    request = driver.submit(Job(), SamplingParams(max_new_tokens=400, ignore_eos=True))
    stats = driver.engine.stats
    driver.engine.call(lambda: None).result()
    before = stats.steps
    driver.engine.fingerprint().result()
    took = stats.steps - before
    driver.engine.cancel(request.id)
    (answer,) = driver.answers()
    assert answer.done.finish_reason == "cancelled"  # it ran all the time
    tensors = len(list(driver.loaded.model.parameters()))
    assert tensors > 40
    assert took < tensors / 4


def test_an_adapter_served_alone_is_read_while_others_get_their_tokens(drive, expected, monkeypatch):
    """The disk is slow for it; the stream beside it does not wait, and its own answer is right."""
    driver = drive()
    original, slow_s = driver.registry.read_with, 4.0
    readers = []

    def slowly(adapter, read):
        readers.append(threading.current_thread().name)
        time.sleep(slow_s)
        return original(adapter, read)

    monkeypatch.setattr(driver.registry, "read_with", slowly)
    job, arrivals = Job((("dora", 1.0),)), []
    driver.submit(job)
    request = driver.submit(Job(), SamplingParams(max_new_tokens=40, ignore_eos=True))
    object.__setattr__(request, "emit", recording(request.emit, arrivals))
    alone, _ = driver.answers()
    assert alone.tokens == expected(job)
    assert alone.done.timings.activation > 1e3 * slow_s * 0.9
    assert len(arrivals) > 20
    assert max(np.diff(arrivals)) < slow_s / 2
    assert all(name.startswith("overtone-adapters") for name in readers)
    driver.assert_idle()


def recording(emit, arrivals):
    def call(event):
        arrivals.append(time.monotonic())
        emit(event)

    return call


def test_more_adapters_served_alone_than_stay_loaded_take_turns(drive, expected, tmp_path):
    """Each is read once while its request runs, and all answers are right."""
    driver = drive()
    whole, reads = driver.registry.folder(driver.adapters["dora"]), Counter()
    for number in range(6):
        folder = shutil.copytree(whole, tmp_path / f"copy{number}")
        driver.adapters[f"dora{number}"] = driver.registry.publish(folder, f"dora{number}")
    original = driver.registry.read_with

    def counted(adapter, read):
        reads[adapter.uid] += 1
        return original(adapter, read)

    driver.registry.read_with = counted
    answers = driver.ask(*(Job(((f"dora{number}", 1.0),)) for number in range(6)))
    assert [answer.tokens for answer in answers] == [expected(Job((("dora", 1.0),)))] * 6
    assert sorted(reads.values()) == [1] * 6
    assert len(driver.engine.runner.peft_fallback._models) == 4
    driver.assert_idle()


def test_a_request_that_ends_while_its_lone_adapter_is_read_leaves_nothing(drive, expected):
    driver = drive()
    original, going = driver.registry.read_with, threading.Event()

    def held(adapter, read):
        going.wait(60)
        return original(adapter, read)

    driver.registry.read_with = held
    job = Job((("dora", 1.0),))
    driver.submit(job, deadline=time.monotonic() + 0.3)
    (late,) = driver.answers()
    assert isinstance(late.error, DeadlineExceeded)
    assert not driver.engine.runner.peft_fallback._reading
    going.set()
    assert driver.ask(job)[0].tokens == expected(job)
    driver.assert_idle()


def test_a_lone_adapter_that_cannot_be_read_fails_its_request(drive, expected):
    driver = drive()
    original = driver.registry.read_with
    driver.registry.read_with = lambda adapter, read: (_ for _ in ()).throw(OSError("planted"))
    gone, good = driver.ask(Job((("dora", 1.0),)), Job())
    assert isinstance(gone.error, AdapterNotFound)
    assert good.tokens == expected(Job())
    driver.registry.read_with = original
    assert driver.ask(Job((("dora", 1.0),)))[0].tokens == expected(Job((("dora", 1.0),)))
    driver.assert_idle()
