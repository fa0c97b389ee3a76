"""The scheduler against a model that merely counts: no torch, thousands of schedules."""

from collections.abc import Callable

from hypothesis import given, settings
from hypothesis import strategies as st

from app.engine.pages import PagePool
from app.engine.request import Request, Sampling, Sequence
from app.engine.scheduler import Chunk, Claim, Scheduler
from app.engine.text import TextStream


def sequence(prompt: int, new: int) -> Sequence:
    request = Request(tuple(range(prompt)), (), (), Sampling(max_new_tokens=new), lambda event: None)
    return Sequence(request, TextStream(lambda ids: ""), 0.0)


def ready(_: Sequence) -> Claim:
    return Claim.READY


def advance(scheduler: Scheduler, chunks: list[Chunk]) -> None:
    """What the engine does after a step."""
    for chunk in chunks:
        chunk.sequence.computed += chunk.tokens
        if chunk.final:
            chunk.sequence.tokens.append(0)
            if chunk.sequence.new_tokens >= chunk.sequence.request.sampling.max_new_tokens:
                scheduler.remove(chunk.sequence)


def run(scheduler: Scheduler, claim: Callable[[Sequence], Claim] = ready, limit: int = 10_000) -> int:
    steps = 0
    while scheduler.waiting or scheduler.running:
        chunks = scheduler.plan(claim)
        assert chunks, "the scheduler is stuck"
        advance(scheduler, chunks)
        steps += 1
        assert steps < limit
    return steps


@settings(max_examples=200)
@given(
    st.lists(st.tuples(st.integers(1, 40), st.integers(1, 20)), min_size=1, max_size=12),
    st.integers(1, 6),
    st.integers(8, 64),
    st.integers(15, 40),
)
def test_everybody_finishes_within_all_limits(jobs, max_batch, step_tokens, pages):
    """Pages of 4 tokens; each request fits alone, all together need not."""
    scheduler = Scheduler(PagePool(pages, 4), max_batch, step_tokens)
    sequences = [sequence(prompt, new) for prompt, new in jobs]
    for each in sequences:
        scheduler.add(each)
    while scheduler.waiting or scheduler.running:
        chunks = scheduler.plan(ready)
        assert chunks
        assert len(scheduler.running) <= max_batch
        assert sum(chunk.tokens for chunk in chunks) <= max(step_tokens, max_batch)
        held = [page for each in sequences for page in each.pages]
        assert len(held) == len(set(held))
        for chunk in chunks:
            assert len(chunk.sequence.pages) * 4 >= chunk.sequence.computed + chunk.tokens
        advance(scheduler, chunks)
    assert all(each.new_tokens == each.request.sampling.max_new_tokens for each in sequences)
    assert scheduler.pool.free == pages


def test_decoding_goes_on_while_a_long_prompt_is_computed_in_chunks():
    scheduler = Scheduler(PagePool(100, 4), 8, step_tokens=16)
    talking, long = sequence(4, 50), sequence(100, 1)
    scheduler.add(talking)
    advance(scheduler, scheduler.plan(ready))
    scheduler.add(long)
    for _ in range(6):
        chunks = scheduler.plan(ready)
        assert chunks[0] == Chunk(talking, talking.computed, 1, final=True)
        assert sum(chunk.tokens for chunk in chunks) <= 16
        advance(scheduler, chunks)
    assert long.computed == 90


def test_a_loading_adapter_lets_others_pass_and_a_full_house_does_not():
    scheduler = Scheduler(PagePool(100, 4), 8, 64)
    first, second = sequence(4, 2), sequence(4, 2)
    for each in (first, second):
        scheduler.add(each)
    assert scheduler.plan(lambda s: Claim.FULL if s is first else Claim.READY) == []
    chunks = scheduler.plan(lambda s: Claim.LOADING if s is first else Claim.READY)
    assert [chunk.sequence for chunk in chunks] == [second]
    assert first.pages == []


def test_the_oldest_gets_on_when_pages_run_out():
    scheduler = Scheduler(PagePool(8, 4), 8, 64)
    old, young = sequence(12, 20), sequence(12, 20)
    for each in (old, young):
        scheduler.add(each)
    while old in scheduler.running or old in scheduler.waiting:
        chunks = scheduler.plan(ready)
        assert any(chunk.sequence is old for chunk in chunks)
        advance(scheduler, chunks)
    assert scheduler.preemptions > 0
    run(scheduler)
    assert young.new_tokens == 20


def test_nobody_overtakes_one_that_was_sent_back_in_flight():
    """It keeps its seat in the batch; were others let in before it, there would be more than there are seats."""
    scheduler = Scheduler(PagePool(4, 4), 3, 64)
    old, young, new = sequence(8, 8), sequence(8, 8), sequence(2, 2)
    for each in (old, young):
        scheduler.add(each)
    for chunk in scheduler.plan(ready):  # the step is queued, its tokens are not known yet
        chunk.sequence.computed += chunk.tokens
        chunk.sequence.flying += 1
    scheduler.add(new)
    assert [chunk.sequence for chunk in scheduler.plan(ready)] == [old]
    assert list(scheduler.waiting) == [young, new]
    young.flying = 0
    young.tokens.append(0)
    scheduler.remove(old)
    assert [chunk.sequence for chunk in scheduler.plan(ready)] == [young, new]
