"""State that other threads read: a snapshot that the engine's thread replaces and never modifies."""

import dataclasses
import threading

import pytest

from app.engine.request import Done, LoRAWeight, Request, Token
from app.engine.sampling_params import SamplingParams
from app.errors import Conflict
from tests.engine.driver import Driver, Job


def test_it_shows_the_present_state_and_earlier_ones_stay_as_they_were(drive):
    driver: Driver = drive(max_resident=3)
    engine, uid = driver.engine, driver.adapters["qv"].uid
    before = engine.snapshot
    assert (before.resident, before.running, before.waiting, before.max_resident) == ((), 0, 0, 3)
    assert (before.blocks, before.free_blocks, before.used_blocks) == (2048, 2048, 0)
    driver.ask(Job((("qv", 1.0),)))
    engine.call(lambda: None).result()
    after = engine.snapshot
    assert after.resident == (uid,)
    assert after.in_host_memory == {uid}
    assert (after.cold_loads, after.evictions, after.encoder_misses, after.used_blocks) == (1, 0, 1, 0)
    assert before.resident == ()
    with pytest.raises(dataclasses.FrozenInstanceError):
        after.running = 1
    assert engine.free_slots().result() == [uid]
    assert engine.snapshot.resident == ()
    assert after.resident == (uid,)


def test_pins_show_at_once_and_leave_one_slot_unpinned(drive):
    driver: Driver = drive(max_resident=2)
    driver.engine.pin("qv", True).result()
    assert driver.engine.snapshot.pinned == {"qv"}
    with pytest.raises(Conflict, match="1 of 2 slots are pinned"):
        driver.engine.pin("rslora", True).result()
    driver.engine.pin("qv", False).result()
    assert driver.engine.snapshot.pinned == frozenset()


def test_a_receiver_of_an_event_finds_it_up_to_date(drive):
    """A running request counts at its first token, and at its last event it holds nothing any more."""
    driver: Driver = drive()
    seen, ended = [], threading.Event()

    def emit(event):
        if (isinstance(event, Token) and len(seen) == 0) or isinstance(event, Done):
            seen.append(driver.engine.snapshot)
        if isinstance(event, Done):
            ended.set()

    adapter = driver.adapters["qv"]
    prompt = tuple(range(3, 20))
    sampling = SamplingParams(max_new_tokens=4, ignore_eos=True)
    driver.engine.submit(Request(prompt, (), (LoRAWeight(adapter),), sampling, emit))
    assert ended.wait(60)
    first, last = seen
    assert (first.running, first.waiting, first.resident) == (1, 0, (adapter.uid,))
    assert first.used_blocks > 0
    assert (last.running, last.used_blocks, last.resident) == (0, 0, (adapter.uid,))


def test_encoding_takes_part_of_the_time_to_the_first_token(drive):
    driver: Driver = drive()
    with_audio, without = driver.ask(Job((), (0, 1)), Job((), ()))
    timings = with_audio.done.timings
    assert 0 < timings.audio < timings.ttft
    assert without.done.timings.audio == 0
    (cached,) = driver.ask(Job((), (0, 1)))
    assert cached.done.timings.audio < timings.audio
