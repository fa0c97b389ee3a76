"""Adapters whose columns do not all fit the device at once are served by turns, not refused."""

import pytest
import torch

from app.engine.lora.layers import MultiLoRALinear
from app.errors import OutOfMemory
from tests.engine.driver import Driver, Job, Oracle
from tests.support import greedy, make_adapter, random_model

pytestmark = pytest.mark.slow

WIDE = {"one": 1, "two": 2, "three": 3, "four": 4}


@pytest.fixture(scope="module")
def wide_folders(tmp_path_factory):
    """Adapters of rank 64."""
    root, loaded = tmp_path_factory.mktemp("wide"), random_model()
    return {name: make_adapter(loaded, root / name, seed, r=64, lora_alpha=64) for name, seed in WIDE.items()}


@pytest.fixture(scope="module")
def answers_of(wide_folders):
    return Oracle(random_model(), wide_folders)


@pytest.fixture
def narrow(tmp_path, wide_folders, monkeypatch):
    """An engine whose device has memory for ``columns``; the attempts beyond them."""
    made, refused = [], []

    def make(columns, **limits):
        original = MultiLoRALinear.grow

        def grow(layer, wanted):
            if wanted > columns:
                refused.append(wanted)
                raise RuntimeError("CUDA error: out of memory")
            original(layer, wanted)

        monkeypatch.setattr(MultiLoRALinear, "grow", grow)
        made.append(Driver(tmp_path / "registry", wide_folders, **limits))
        return made[-1], refused

    yield make
    for driver in made:
        driver.engine.close()


def test_more_adapters_than_fit_are_served_by_turns(narrow, answers_of):
    driver, refused = narrow(columns=128)
    jobs = [Job(((name, 1.0),), (wave,)) for wave in range(3) for name in WIDE] + [Job((), (1,))]
    answers = driver.ask(*jobs)
    assert [answer.error for answer in answers] == [None] * len(jobs)
    assert [answer.tokens for answer in answers] == [answers_of(job) for job in jobs]
    assert len(refused) == 1, "that there is no more is found out once"
    driver.assert_idle()


def test_a_mix_that_fits_when_others_have_left(narrow, answers_of):
    """The idle ones lie in its way; then it has the columns alone."""
    driver, _ = narrow(columns=128)
    first = [Job(((name, 1.0),)) for name in WIDE]
    assert all(answer.done for answer in driver.ask(*first))
    mix = Job((("four", 0.5), ("one", -0.5)))
    (answer,) = driver.ask(mix)
    assert answer.tokens == answers_of(mix)
    driver.assert_idle()


def test_what_can_never_fit_is_refused_at_once_and_others_go_on(narrow, answers_of):
    driver, _ = narrow(columns=128)
    too_wide, fine = Job((("one", 0.5), ("two", 0.5), ("three", 0.5))), Job((("two", 1.0),))
    refused, good = driver.ask(too_wide, fine)
    assert isinstance(refused.error, OutOfMemory)
    assert good.tokens == answers_of(fine)
    (again,) = driver.ask(fine)
    assert again.tokens == answers_of(fine)
    driver.assert_idle()


def test_pinned_adapters_are_not_evicted_and_not_waited_for(narrow, answers_of):
    driver, _ = narrow(columns=64)
    pinned, other = Job((("one", 1.0),)), Job((("two", 1.0),))
    driver.ask(pinned)
    driver.engine.lora_manager.slots.pinned.add("one")
    (refused,) = driver.ask(other)
    assert isinstance(refused.error, OutOfMemory)
    (answer,) = driver.ask(pinned)
    assert answer.tokens == answers_of(pinned)
    driver.engine.lora_manager.slots.pinned.clear()
    (answer,) = driver.ask(other)
    assert answer.tokens == answers_of(other)


@pytest.mark.skipif(torch.cuda.is_available(), reason="tests/gpu runs the kernels themselves")
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
class TestFused:
    def test_by_turns(self, tmp_path, wide_folders, answers_of, monkeypatch):
        pytest.importorskip("triton", reason="needs Triton; without a GPU its interpreter is enough")
        from app.engine.cuda import decoder as cuda_decoder
        from app.engine.cuda import language_model
        from app.engine.lora import stacked_weights
        from app.engine.lora.stacked_weights import StackedWeights

        for module, name, value in (
            (cuda_decoder, "_ROW_STEP", 16), (cuda_decoder, "TILE", 16), (cuda_decoder, "_ROWS", ()),
            (language_model, "TILE", 16), (language_model, "_PROGRAMS", 16),
            (stacked_weights, "PIECE", 40_000),  # so that an adapter comes in several pieces
        ):  # fmt: skip
            monkeypatch.setattr(module, name, value)
        monkeypatch.setattr(cuda_decoder.CudaDecoder, "warm_up", lambda self: None)
        original = StackedWeights._zeros

        def zeros(self, shape):
            if len(shape) > 2 and shape[1] > 64:
                raise torch.OutOfMemoryError("planted")
            return original(self, shape)

        monkeypatch.setattr(StackedWeights, "_zeros", zeros)
        driver = Driver(tmp_path / "registry", wide_folders, decoder="fused", max_batch=4, max_context=128)
        try:
            jobs = [Job(((name, 1.0),), (), "a") for name in ("one", "two", "one")]
            answers = driver.ask(*jobs, sampling=greedy(2))
            assert [answer.tokens for answer in answers] == [answers_of(job)[:2] for job in jobs]
            driver.assert_idle()
        finally:
            driver.engine.close()


@pytest.fixture
def in_pieces(tmp_path, wide_folders, monkeypatch):
    """An engine to whose device adapters come in pieces; ``fail`` names the piece at which copying fails, once."""
    from app.engine.runner import Runner

    made = []

    def make(pieces, fail=None, **limits):
        def load(self, slot, adapter, capacity):
            self.bank.load(slot, adapter, capacity)

            def copying():
                nonlocal fail
                for piece in range(pieces):
                    if piece == fail:
                        fail = None
                        raise torch.OutOfMemoryError("planted")
                    yield

            return copying()

        monkeypatch.setattr(Runner, "load", load)
        made.append(Driver(tmp_path / "registry", wide_folders, **limits))
        return made[-1]

    yield make
    for driver in made:
        driver.engine.close()


def test_adapters_that_come_in_pieces_are_used_once_they_are_whole(in_pieces, answers_of):
    """Several wait for the same one, one for two of them, the base goes on; with fewer slots than adapters."""
    driver = in_pieces(pieces=7, max_resident=2)
    jobs = [Job(), Job((("one", 1.0),)), Job((("one", 1.0),), (1,)), Job((("three", 0.5), ("two", 0.5)))]
    jobs += [Job(((name, 1.0),), (2,)) for name in WIDE]
    answers = driver.ask(*jobs)
    assert [answer.tokens for answer in answers] == [answers_of(job) for job in jobs]
    assert not driver.engine.lora_manager._loads
    driver.assert_idle()


def test_who_leaves_while_an_adapter_is_on_its_way_leaves_no_slot_taken(in_pieces, answers_of):
    driver = in_pieces(pieces=2000, max_resident=1)
    leaving = driver.submit(Job((("one", 1.0),)))
    while not driver.engine.lora_manager._loads:
        pass
    driver.engine.cancel(leaving.id)
    (gone,) = driver.answers()
    assert gone.done.finish_reason == "cancelled"
    (answer,) = driver.ask(Job((("two", 1.0),)))
    assert answer.tokens == answers_of(Job((("two", 1.0),)))
    driver.assert_idle()


@pytest.mark.parametrize("fail", [1, 4])
def test_a_load_that_fails_on_its_way_fails_who_waits_for_it(in_pieces, answers_of, fail):
    driver = in_pieces(pieces=6, fail=fail)
    victim, other = driver.ask(Job((("one", 1.0),)), Job())
    assert isinstance(victim.error, OutOfMemory)
    assert other.tokens == answers_of(Job())
    assert not driver.engine.lora_manager.slots.slots
    (answer,) = driver.ask(Job((("one", 1.0),)))
    assert answer.tokens == answers_of(Job((("one", 1.0),)))
    driver.assert_idle()
