"""The device runs out of memory, or fails for good, and one sequence's own parts fail; neighbours go on."""

import pytest
import torch

from app.engine.faults import classify_error
from app.engine.sampling_params import SamplingParams
from app.errors import DeviceLost, EngineFault, OutOfMemory
from tests.api.conftest import Running, ask, audio, events_of
from tests.engine.driver import Driver, Job

TWO_CLIPS = Job((), (0, 1))
TOO_MUCH = 1 << 46  # bytes; no machine gives them


def allocate() -> None:
    torch.empty(TOO_MUCH, dtype=torch.uint8)


def out_of_memory_on_cuda() -> None:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


def exhaust(engine, condition, fail=allocate) -> list[int]:
    """Let each step fail that holds a sequence with ``condition``; the sizes of those steps."""
    decoder = engine.runner.decoder
    original, failed = decoder.step, []

    def step(chunks, audio):
        if any(condition(chunk.sequence) for chunk in chunks):
            failed.append(len(chunks))
            fail()
        return original(chunks, audio)

    decoder.step = step
    return failed


@pytest.mark.parametrize("fail", [allocate, out_of_memory_on_cuda])
def test_victims_are_told_to_come_back_and_the_rest_go_on(drive, expected, monkeypatch, fail):
    driver: Driver = drive()
    freed: list[bool] = []
    original = driver.engine.runner.free_memory
    monkeypatch.setattr(driver.engine.runner, "free_memory", lambda: (freed.append(True), original()))
    # while it decodes, beside two others
    failed = exhaust(driver.engine, lambda s: len(s.request.clips) == 2 and s.new_tokens == 4, fail)
    neighbour = Job((("qv", 1.0),), (1,))
    first, victim, second = driver.ask(Job(), TWO_CLIPS, neighbour)
    assert (type(victim.error), victim.error.status) == (OutOfMemory, 503)
    assert victim.error.retry_after_s > 0
    assert victim.tokens == expected(TWO_CLIPS)[:4]
    assert [first.tokens, second.tokens] == [expected(Job()), expected(neighbour)]
    assert failed[0] > 1  # with the others, of whom one may still wait for its adapter
    assert failed[1] == 1  # then alone, and once more when others have ended: only who fails then is a victim
    assert freed
    driver.assert_idle()
    del driver.engine.runner.decoder.step
    assert driver.ask(TWO_CLIPS)[0].tokens == expected(TWO_CLIPS)


def test_who_has_no_memory_beside_others_waits_for_them(drive, expected):
    """Not even its own step fits while others hold memory: it goes back to the queue, and says what it would have."""
    driver: Driver = drive()
    scheduler = driver.engine.scheduler
    failed = exhaust(driver.engine, lambda s: len(s.request.clips) == 2 and len(scheduler.running) > 1)
    neighbour = Job((("qv", 1.0),), (1,))
    jobs = [Job(), TWO_CLIPS, neighbour]
    answers = driver.ask(*jobs)
    assert failed
    assert [answer.error for answer in answers] == [None] * 3
    assert [answer.tokens for answer in answers] == [expected(job) for job in jobs]
    driver.assert_idle()


def test_nobody_waits_for_memory_for_ever(drive, expected):
    """A request for which there is none beside others is put back a few times, though new ones keep coming."""
    driver: Driver = drive()
    scheduler = driver.engine.scheduler
    failed = exhaust(driver.engine, lambda s: len(s.request.clips) == 2 and len(scheduler.running) > 1)
    answers = driver.ask(TWO_CLIPS, *[Job((), (wave % 4,), "a" * wave) for wave in range(12)])
    assert failed
    assert all(answer.done or isinstance(answer.error, OutOfMemory) for answer in answers)
    assert all(answer.done for answer in answers[1:])
    driver.assert_idle()


def test_a_step_too_large_for_all_fits_each_alone(drive, expected):
    driver: Driver = drive()
    sizes: list[int] = []
    decoder, original = driver.engine.runner.decoder, driver.engine.runner.decoder.step

    def step(chunks, audio):
        sizes.append(len(chunks))
        if len(chunks) > 1:
            allocate()
        return original(chunks, audio)

    decoder.step = step
    answers = driver.ask(Job(), TWO_CLIPS)
    assert max(sizes) == 2
    assert [answer.tokens for answer in answers] == [expected(Job()), expected(TWO_CLIPS)]
    driver.assert_idle()


def test_no_memory_for_a_classification(drive, monkeypatch):
    driver: Driver = drive()
    monkeypatch.setattr(driver.engine.runner, "pool", lambda clip: allocate())
    clips = driver.messages(Job())[0].parts[:1]
    with pytest.raises(OutOfMemory):
        driver.engine.pool_audio(clips).result(10)
    driver.assert_idle()
    assert driver.ask(Job())[0].done


async def test_a_client_sees_503_and_retry_after(running: Running) -> None:
    async with running() as client:
        engine = client.app.state.overtone.service.engine
        exhaust(engine, lambda sequence: bool(sequence.request.clips))
        refused = await client.post("/generate", data={"prompt": "go"}, files=audio())
        assert (refused.status_code, refused.json()["code"]) == (503, "out_of_memory")
        assert int(refused.headers["retry-after"]) == refused.json()["retry_after_s"] == 1
        streamed = await client.post("/generate", data={"prompt": "go", "stream": "true"}, files=audio())
        kind, problem = events_of(streamed.text)[-1]
        assert (kind, problem["code"], problem["retry_after_s"]) == ("error", "out_of_memory", 1)
        said = {"model": "base", "messages": [{"role": "user", "content": "go"}]}
        assert (await client.post("/v1/chat/completions", json=said | {"max_tokens": 4})).status_code == 200
        exhaust(engine, lambda sequence: True)
        refused = await client.post("/v1/chat/completions", json=said)
        assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
        assert refused.json()["error"]["code"] == "out_of_memory"
        assert (await client.get("/health")).status_code == (await client.get("/ready")).status_code == 200
        del engine.runner.decoder.step
        await ask(client)


async def test_a_device_that_fails_for_good_ends_readiness_and_health(running: Running, monkeypatch) -> None:
    """After an illegal access CUDA answers everything with the same error: only a new process helps."""
    async with running() as client:
        engine = client.app.state.overtone.service.engine

        def broken(*_):
            raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered", 700)

        # as long as the device computes on, an error is one request's own
        monkeypatch.setattr(engine.runner.decoder, "step", broken)
        assert (await client.post("/generate", data={"prompt": "go"})).json()["code"] == "engine_fault"
        monkeypatch.undo()
        await ask(client)

        monkeypatch.setattr(engine.runner.decoder, "step", broken)
        monkeypatch.setattr(engine.runner, "alive", lambda: False)
        told = await client.post("/generate", data={"prompt": "go"})
        assert (told.status_code, told.json()["code"]) == (503, "device_lost")
        monkeypatch.undo()
        engine._thread.join(10)
        for path in ("/health", "/ready", "/adapters"):
            answer = await client.get(path)
            assert (answer.status_code, answer.json()["code"]) == (503, "device_lost"), path
            assert answer.headers["retry-after"] == "30"
        with pytest.raises(DeviceLost):
            engine.fingerprint()


@pytest.mark.parametrize("part", ["fill", "accept"])
def test_a_grammar_that_raises_fails_its_own_request_alone(drive, expected, part):
    class Faulty:
        finished, error = False, None

        def fill(self, mask) -> None:
            mask[:] = -1
            if part == "fill":
                raise RuntimeError("planted")

        def accept(self, token: int) -> None:
            raise RuntimeError("planted")

    driver: Driver = drive()
    driver.submit(Job())
    driver.submit(TWO_CLIPS, SamplingParams(max_new_tokens=8), grammar=Faulty())
    driver.submit(Job((("qv", 1.0),), (1,)))
    good, bad, other = driver.answers()
    assert isinstance(bad.error, EngineFault)
    assert "planted" not in str(bad.error)
    assert [good.tokens, other.tokens] == [expected(Job()), expected(Job((("qv", 1.0),), (1,)))]
    driver.assert_idle()


def test_sampling_that_raises_for_one_row_fails_that_row_alone(drive, expected, monkeypatch):
    from app.engine import sampler

    original = sampler._draw

    def draw(logits, sampling, position):
        if sampling.seed == 13:
            raise RuntimeError("planted")
        return original(logits, sampling, position)

    monkeypatch.setattr(sampler, "_draw", draw)
    driver: Driver = drive()
    drawn = SamplingParams(max_new_tokens=8, temperature=1.0, seed=7)
    (alone,) = driver.ask(Job(), sampling=drawn)
    driver.submit(Job(), drawn)
    driver.submit(Job(), SamplingParams(max_new_tokens=8, temperature=1.0, seed=13))
    driver.submit(TWO_CLIPS)
    good, bad, greedy = driver.answers()
    assert isinstance(bad.error, EngineFault)
    assert good.tokens == alone.tokens
    assert greedy.tokens == expected(TWO_CLIPS)
    driver.assert_idle()


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling")])
def test_what_counts_as_out_of_memory(error):
    assert isinstance(classify_error(error, "no"), OutOfMemory)
    assert isinstance(classify_error(RuntimeError("shapes differ"), "no"), EngineFault)
