"""Weights at rest: token ids equal plain transformers + PEFT on the dequantised weights (float32, greedy)."""

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from app.quantization.formats import FORMATS
from app.quantization.linear import QuantizedLinear
from tests.engine.driver import Driver, Job, Oracle
from tests.flamingo import random_flamingo
from tests.support import ADAPTERS, at_rest, dequantized, make_adapter, random_model

pytestmark = pytest.mark.slow

MIX = (("qv", 0.5), ("everything", -0.25), ("head", 0.7))
BATCHED = ("qv", "ranks", "everything", "projector", "head")
EACH = [Job(((name, 1.0),), (index % 4,), f"say {name}") for index, name in enumerate(BATCHED)]
POOL = [Job(), *EACH, Job(MIX, (1,)), Job((("dora", 1.0),), (2,))]


@pytest.fixture(scope="module", params=FORMATS)
def served(request, tmp_path_factory, folders):
    """An engine over weights at rest, with three slots and few blocks, and the reference for its answers."""
    loaded = at_rest(random_model(), request.param)
    expected = Oracle(dequantized(loaded), folders)
    driver = Driver(
        tmp_path_factory.mktemp("at-rest"), folders, loaded=loaded, max_resident=3, step_tokens=64, blocks=40
    )
    yield driver, expected
    driver.engine.close()


@settings(max_examples=2, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    st.lists(
        st.tuples(st.integers(0, len(POOL) - 1), st.sampled_from(["ask", "ask", "cancel", "wait", "free"])),
        min_size=4,
        max_size=8,
    )
)
def test_random_schedules(served, steps):
    driver, expected = served
    cancelled = []
    for index, action in steps:
        request = driver.submit(POOL[index])
        cancelled.append(action == "cancel")
        if action == "cancel":
            driver.engine.cancel(request.id)
        elif action == "wait":
            driver.engine.call(lambda: None).result()
        elif action == "free":
            driver.engine.free_slots().result()
    for (index, _), gone, answer in zip(steps, cancelled, driver.answers(), strict=True):
        wanted = expected(POOL[index])
        assert answer.error is None
        assert answer.tokens == (wanted[: len(answer.tokens)] if gone else wanted)
    driver.assert_idle()


def test_all_in_one_batch_and_the_base_unchanged(served):
    """And the answers are those of these weights, not of the original ones."""
    driver, expected = served
    before = driver.engine.fingerprint().result()
    answers = driver.ask(*POOL)
    assert [answer.tokens for answer in answers] == [expected(job) for job in POOL]
    assert all(expected(job) != expected(Job((), job.waves, job.prompt)) for job in POOL[1:])
    driver.engine.free_slots().result()
    assert driver.engine.fingerprint().result() == before
    assert isinstance(driver.loaded.model.lm_head, QuantizedLinear)
    driver.assert_idle()


def test_a_changed_bit_changes_the_fingerprint(served):
    driver, _ = served
    layer = driver.loaded.model.lm_head
    for tensor in (layer.data, layer.scale):
        before, kept = driver.engine.fingerprint().result(), tensor.data.flatten()[7].clone()
        tensor.data.view(-1)[7] = 0 if kept != 0 else 1
        assert driver.engine.fingerprint().result() != before
        tensor.data.view(-1)[7] = kept


def test_every_kind_of_adapter_over_int4(tmp_path, folders):
    """Those that write into base weights, too: an adapter's own lm_head, trained biases, trained embeddings."""
    loaded = at_rest(random_model(), "int4")
    expected = Oracle(dequantized(loaded), folders)
    driver = Driver(tmp_path / "registry", folders, loaded=loaded)
    jobs = [Job(((name, 1.0),), (0,), f"say {name}") for name in ADAPTERS if name not in BATCHED]
    try:
        for first in range(0, len(jobs), 4):  # four at a time are served through PEFT
            part = jobs[first : first + 4]
            assert [answer.tokens for answer in driver.ask(*part)] == [expected(job) for job in part]
    finally:
        driver.engine.close()


@pytest.mark.parametrize("weights", ["int4", "float8"])
def test_audio_flamingo(tmp_path, weights):
    loaded = at_rest(random_flamingo(), weights)
    plain = dequantized(loaded)
    folders = {"all": make_adapter(plain, tmp_path / "all", 1, r=8, target_modules=r".*language_model.*\w+_proj")}
    expected = Oracle(plain, folders)
    driver = Driver(tmp_path / "registry", folders, loaded=loaded)
    jobs = [Job(), Job((("all", 1.0),))]
    try:
        assert [answer.tokens for answer in driver.ask(*jobs)] == [expected(job) for job in jobs]
    finally:
        driver.engine.close()


def test_a_classifier_sees_the_same_encoder(tmp_path):
    """Tower and projector are not quantised, so what classifiers read is the same bit for bit."""
    found = []
    for name, loaded in (("plain", random_model()), ("rest", at_rest(random_model(), "int4"))):
        driver = Driver(tmp_path / name, {}, loaded=loaded)
        try:
            clips = tuple(part for part in driver.messages(Job())[0].parts if not isinstance(part, str))
            found.append(driver.engine.pool_audio(clips).result().clips)
        finally:
            driver.engine.close()
    for one, other in zip(*found, strict=True):
        assert torch.equal(one.mean, other.mean)
        assert torch.equal(one.variance, other.variance)
