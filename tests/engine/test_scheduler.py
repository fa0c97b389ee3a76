"""The scheduler against a model that merely counts: no torch, thousands of schedules."""

from collections.abc import Callable

from hypothesis import given, settings
from hypothesis import strategies as st

from app.engine.detokenizer import Detokenizer
from app.engine.kv_cache.block_pool import BlockPool
from app.engine.request import Request
from app.engine.sampling_params import SamplingParams
from app.engine.scheduler import Admission, Chunk, Scheduler
from app.engine.sequence import Sequence


def sequence(prompt: int, new: int) -> Sequence:
    request = Request(tuple(range(prompt)), (), (), SamplingParams(max_new_tokens=new), lambda event: None)
    return Sequence(request, Detokenizer(lambda ids: ""), 0.0)


def ready(_: Sequence) -> Admission:
    return Admission.READY


def advance(scheduler: Scheduler, chunks: list[Chunk]) -> None:
    """What the engine does after a step."""
    for chunk in chunks:
        chunk.sequence.computed += chunk.tokens
        if chunk.final:
            chunk.sequence.tokens.append(0)
            if chunk.sequence.new_tokens >= chunk.sequence.request.sampling.max_new_tokens:
                scheduler.remove(chunk.sequence)


def plan(scheduler: Scheduler, admit: Callable[[Sequence], Admission]) -> list[Chunk]:
    """A step as the engine plans it: admissions of the candidates first, then the schedule by them."""
    admissions: dict[str, Admission] = {}
    scheduler.allocate_running()
    for chunk in scheduler.candidates(admissions):
        admissions[chunk.sequence.request.id] = admit(chunk.sequence)
    return scheduler.schedule(admissions)


def run(scheduler: Scheduler, admit: Callable[[Sequence], Admission] = ready, limit: int = 10_000) -> int:
    steps = 0
    while scheduler.waiting or scheduler.running:
        chunks = plan(scheduler, admit)
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
def test_everybody_finishes_within_all_limits(jobs, max_batch, step_tokens, blocks):
    """Blocks of 4 tokens; each request fits alone, all together need not."""
    scheduler = Scheduler(BlockPool(blocks, 4), max_batch, step_tokens)
    sequences = [sequence(prompt, new) for prompt, new in jobs]
    for each in sequences:
        scheduler.add(each)
    while scheduler.waiting or scheduler.running:
        chunks = plan(scheduler, ready)
        assert chunks
        assert len(scheduler.running) <= max_batch
        assert sum(chunk.tokens for chunk in chunks) <= max(step_tokens, max_batch)
        held = [block for each in sequences for block in each.blocks]
        assert len(held) == len(set(held))
        for chunk in chunks:
            assert len(chunk.sequence.blocks) * 4 >= chunk.sequence.computed + chunk.tokens
        advance(scheduler, chunks)
    assert all(each.new_tokens == each.request.sampling.max_new_tokens for each in sequences)
    assert scheduler.pool.available == blocks


def test_decoding_goes_on_while_a_long_prompt_is_computed_in_chunks():
    scheduler = Scheduler(BlockPool(100, 4), 8, step_tokens=16)
    talking, long = sequence(4, 50), sequence(100, 1)
    scheduler.add(talking)
    advance(scheduler, plan(scheduler, ready))
    scheduler.add(long)
    for _ in range(6):
        chunks = plan(scheduler, ready)
        assert chunks[0] == Chunk(talking, talking.computed, 1, final=True)
        assert sum(chunk.tokens for chunk in chunks) <= 16
        advance(scheduler, chunks)
    assert long.computed == 90


def test_a_loading_adapter_lets_others_pass_and_a_full_house_does_not():
    scheduler = Scheduler(BlockPool(100, 4), 8, 64)
    first, second = sequence(4, 2), sequence(4, 2)
    for each in (first, second):
        scheduler.add(each)
    assert plan(scheduler, lambda s: Admission.FULL if s is first else Admission.READY) == []
    chunks = plan(scheduler, lambda s: Admission.LOADING if s is first else Admission.READY)
    assert [chunk.sequence for chunk in chunks] == [second]
    assert first.blocks == []


def test_the_oldest_gets_on_when_blocks_run_out():
    scheduler = Scheduler(BlockPool(8, 4), 8, 64)
    old, young = sequence(12, 20), sequence(12, 20)
    for each in (old, young):
        scheduler.add(each)
    while old in scheduler.running or old in scheduler.waiting:
        chunks = plan(scheduler, ready)
        assert any(chunk.sequence is old for chunk in chunks)
        advance(scheduler, chunks)
    assert scheduler.preemptions > 0
    run(scheduler)
    assert young.new_tokens == 20


def test_no_sequence_overtakes_one_that_was_preempted_in_flight():
    """It keeps its batch index; if others were admitted before it, there would be more than there are indices."""
    scheduler = Scheduler(BlockPool(4, 4), 3, 64)
    old, young, new = sequence(8, 8), sequence(8, 8), sequence(2, 2)
    for each in (old, young):
        scheduler.add(each)
    for chunk in plan(scheduler, ready):  # the step is queued, its tokens are not known yet
        chunk.sequence.computed += chunk.tokens
        chunk.sequence.in_flight += 1
    scheduler.add(new)
    assert [chunk.sequence for chunk in plan(scheduler, ready)] == [old]
    assert list(scheduler.waiting) == [young, new]
    young.in_flight = 0
    young.tokens.append(0)
    scheduler.remove(old)
    assert [chunk.sequence for chunk in plan(scheduler, ready)] == [young, new]


STATES = st.sampled_from(list(Admission))


@settings(max_examples=200)
@given(
    st.lists(st.tuples(st.integers(1, 40), st.integers(1, 20)), min_size=1, max_size=12),
    st.integers(1, 4),
    st.integers(8, 64),
    st.integers(15, 40),
    st.data(),
)
def test_a_sequence_runs_exactly_when_its_admission_is_ready(jobs, max_batch, step_tokens, blocks, data):
    """The engine holds slots for every READY candidate, so each must start: a held slot that waits can block others."""
    scheduler = Scheduler(BlockPool(blocks, 4), max_batch, step_tokens)
    sequences = [sequence(prompt, new) for prompt, new in jobs]
    for each in sequences:
        scheduler.add(each)
    for _ in range(30):
        scheduler.allocate_running()
        available, running = scheduler.pool.available, list(scheduler.running)
        admissions: dict[str, Admission] = {}
        asked: list[tuple[Sequence, Admission]] = []
        for chunk in scheduler.candidates(admissions):
            admissions[chunk.sequence.request.id] = data.draw(STATES)
            asked.append((chunk.sequence, admissions[chunk.sequence.request.id]))
        assert (scheduler.pool.available, scheduler.running) == (available, running)  # asking changes nothing
        order = [each for each in scheduler.waiting if each.request.id in admissions]
        assert [each for each, _ in asked] == order
        assert all(admission is not Admission.FULL for _, admission in asked[:-1])
        chunks = scheduler.schedule(admissions)
        started = [each for each in scheduler.running if each not in running]
        assert started == [each for each, admission in asked if admission is Admission.READY]
        assert {each.request.id for each in started} <= {chunk.sequence.request.id for chunk in chunks}
        assert len(scheduler.running) <= max_batch
        assert sum(chunk.tokens for chunk in chunks) <= max(step_tokens, max_batch)
        advance(scheduler, chunks)


def test_candidates_end_where_a_step_has_no_more_tokens_batch_size_or_blocks():
    def asked(scheduler: Scheduler, admission: Admission, *prompts: int) -> int:
        for prompt in prompts:
            scheduler.add(sequence(prompt, 2))
        admissions: dict[str, Admission] = {}
        for chunk in scheduler.candidates(admissions):
            admissions[chunk.sequence.request.id] = admission
        return len(admissions)

    assert asked(Scheduler(BlockPool(100, 4), 8, 16), Admission.READY, 10, 10, 10) == 2
    assert asked(Scheduler(BlockPool(100, 4), 2, 64), Admission.READY, 4, 4, 4) == 2
    assert asked(Scheduler(BlockPool(4, 4), 8, 64), Admission.READY, 8, 8, 8) == 2
    assert asked(Scheduler(BlockPool(4, 4), 8, 16), Admission.LOADING, 10, 16, 10) == 3  # none of them takes any
    assert asked(Scheduler(BlockPool(4, 4), 8, 16), Admission.FULL, 4, 4, 4) == 1


def test_a_sequence_without_an_admission_does_not_start():
    scheduler = Scheduler(BlockPool(100, 4), 8, 64)
    first, second = sequence(4, 2), sequence(4, 2)
    for each in (first, second):
        scheduler.add(each)
    assert scheduler.schedule({second.request.id: Admission.READY}) == []
    assert list(scheduler.waiting) == [first, second]
    assert [chunk.sequence for chunk in scheduler.schedule({first.request.id: Admission.READY})] == [first]
