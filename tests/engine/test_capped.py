"""A real engine within a cap: requests wait for memory, or are refused in words, and none runs out of it."""

import pytest
import torch

from app.engine.config import EngineConfig
from app.engine.memory import DoesNotFit, MemoryPlan, least_bytes
from app.engine.sampling_params import SamplingParams
from app.errors import BadRequest, Conflict, PromptTooLong
from app.models.shape import shape_of
from tests.engine.driver import Driver, Job, Oracle
from tests.support import make_adapter, random_model

pytestmark = pytest.mark.slow

RANKS = {"wide": 64, "wider": 64, "tower": 16, "narrow": 16, "widest": 128}
EVERYWHERE = r".*\.(\w+_proj|fc1|fc2|linear)|lm_head"


@pytest.fixture(scope="module")
def capped_folders(tmp_path_factory):
    """Adapters on every linear layer, `lm_head`, tower and projector included; one with a projector of its own."""
    root, loaded = tmp_path_factory.mktemp("capped"), random_model()
    folders = {
        name: make_adapter(loaded, root / name, seed, r=rank, lora_alpha=rank, target_modules=EVERYWHERE)
        for seed, (name, rank) in enumerate(RANKS.items())
    }
    return folders | {"saved": make_adapter(loaded, root / "saved", 9, modules_to_save=["multi_modal_projector"])}


@pytest.fixture(scope="module")
def answers_of(capped_folders):
    return Oracle(random_model(), capped_folders)


@pytest.fixture
def capped(tmp_path, capped_folders):
    """Engines on a card of as many bytes as the smallest plan takes, and ``more``."""
    made = []

    def make(more=0, **asked):
        loaded = random_model()
        shape = shape_of(loaded.model.config, loaded.spec)
        limits = EngineConfig(**(dict(DEFAULTS) | asked))
        needed = least_bytes(shape, limits, "bfloat16", loaded.dtype, fused=False)
        made.append(
            Driver(tmp_path / f"{len(made)}", capped_folders, loaded=loaded, cap=needed + more, max_rank=128, **asked)
        )
        return made[-1]

    yield make
    for driver in made:
        driver.engine.close()


DEFAULTS = dict(
    max_resident=32, max_batch=64, max_queue=256, step_tokens=512, max_context=2048, host_cache_bytes=1 << 28,
    encoder_cache_bytes=1 << 24,
)  # fmt: skip


def held(driver):
    """Bytes of what the engine keeps on its device, by the plan's names."""
    runner = driver.engine.runner
    layers = runner.bank._layers.values()
    return {
        "adapters": sum(layer.lora_a.nbytes + layer.lora_b.nbytes for layer in layers),
        "audio": sum(one.nbytes for one in runner._audio.values()),
        "encoder cache": sum(one.nbytes for one in runner.encoder._cache.values()),
        "KV cache": runner.cache.keys.nbytes + runner.cache.values.nbytes,
    }


def test_many_requests_and_wide_adapters_wait_for_their_turn(capped, answers_of):
    driver = capped()
    memory = driver.engine.memory
    assert memory.columns == memory.most_columns == 64, "one adapter of rank 64 at a time"
    assert driver.engine.limits.max_batch == 4
    names = ["wide", "tower", "narrow", "saved", "wider", None]
    jobs = [Job(((name, 1.0),) if name else (), (wave,)) for wave in range(3) for name in names]
    answers = driver.ask(*jobs)
    assert [answer.error for answer in answers] == [None] * len(jobs)
    assert [answer.tokens for answer in answers] == [answers_of(job) for job in jobs]
    for name, size in held(driver).items():
        assert size <= memory.parts[name], name
    driver.assert_idle()


def test_no_part_exceeds_its_share_at_any_step(capped, monkeypatch):
    """The cache holds the answers of two requests or three; more of them are preempted and come back."""
    driver = capped()
    memory, broken, steps = driver.engine.memory, [], []
    launch = driver.engine.runner.launch

    def watched(chunks):
        drawn = launch(chunks)
        steps.append(held(driver))
        broken.extend((name, size) for name, size in steps[-1].items() if size > memory.parts[name])
        running = {sequence.request.id for sequence in driver.engine.scheduler.running}
        broken.extend(("audio without blocks", one) for one in driver.engine.runner._audio.keys() - running)
        return drawn

    monkeypatch.setattr(driver.engine.runner, "launch", watched)
    jobs = [Job((), (wave, (wave + 1) % 4), "a") for wave in range(4)] * 2
    answers = driver.ask(*jobs, sampling=SamplingParams(max_new_tokens=90, ignore_eos=True))
    assert all(answer.done for answer in answers)
    assert not broken
    assert driver.engine.scheduler.preemptions, "the cache was full"
    assert max(one["audio"] for one in steps) > 0.1 * memory.parts["audio"], "the share was put to the test"
    driver.assert_idle()


def test_an_adapter_wider_than_the_plan_is_refused_in_words_and_others_go_on(capped, answers_of):
    driver = capped()
    refused, mixed, fine = driver.ask(
        Job((("widest", 1.0),)), Job((("wide", 0.5), ("narrow", 0.5))), Job((("narrow", 1.0),))
    )
    assert isinstance(refused.error, BadRequest)
    assert "Rank 128 of 'widest' takes 128 adapter columns, and this server's memory has room for 64" in str(
        refused.error
    )
    assert isinstance(mixed.error, BadRequest)
    assert "Rank 80 of 'wide' and 'narrow' takes 80 adapter columns" in str(mixed.error)
    assert fine.tokens == answers_of(Job((("narrow", 1.0),)))
    driver.assert_idle()


def test_a_larger_card_has_columns_for_it(capped, answers_of):
    driver = capped(more=1 << 28)
    assert driver.engine.memory.columns >= 128
    job = Job((("widest", 1.0),))
    assert driver.ask(job)[0].tokens == answers_of(job)


def test_pinned_adapters_that_leave_too_few_columns_are_named(capped, answers_of):
    driver = capped()
    narrow, wide = Job((("narrow", 1.0),)), Job((("wide", 1.0),))
    driver.ask(narrow)
    driver.engine.lora_manager.slots.pinned.add("narrow")
    (refused,) = driver.ask(wide)
    assert isinstance(refused.error, Conflict)
    assert "Pinned adapters leave too few of the 64 adapter columns" in str(refused.error)
    driver.engine.lora_manager.slots.pinned.clear()
    assert driver.ask(wide)[0].tokens == answers_of(wide)


def test_a_card_too_small_is_refused_before_there_is_an_engine(capped):
    with pytest.raises(DoesNotFit) as refused:
        capped(more=-1)
    first, second = str(refused.value).splitlines()
    assert first.startswith("random in float32 needs ")
    assert "GB here; it may take" in first
    assert second.startswith("No format of the weights fits") or second.startswith("OVERTONE_WEIGHTS=")


def test_a_service_refuses_before_it_loads_a_model(monkeypatch):
    """The embedded model on a GPU with half a GiB free, which is not there: nothing may be read."""
    from app.service import service
    from app.settings import Settings

    def loads(*_):
        raise AssertionError("weights were read")

    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (GIB // 2, GIB))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 0)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 0)
    monkeypatch.setattr(service, "pick_device", lambda wanted: torch.device("cuda"))
    monkeypatch.setattr(service, "preload", lambda: None)
    monkeypatch.setattr(service, "_load", loads)
    with pytest.raises(DoesNotFit, match=r"^overtone-tiny in bfloat16 needs .* GB here; free are 1\.1\."):
        service.Service.open(Settings())


def test_memory_that_ends_at_start_all_the_same_is_two_lines(monkeypatch):
    from app.engine.memory import named_shortage

    with pytest.raises(BadRequest) as told, named_shortage(24 * 10**9):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\n" * 20)
    assert len(str(told.value).splitlines()) == 2
    assert "24.0 GB were planned with" in str(told.value)
    with pytest.raises(ValueError, match="something else"), named_shortage(24 * 10**9):
        raise ValueError("something else")


GIB = 1 << 30


PLAIN = {"dora": {"use_dora": True}, "dora-2": {"use_dora": True, "r": 8}, "bias": {"bias": "lora_only"}}


@pytest.fixture(scope="module")
def plain_folders(tmp_path_factory):
    """Adapters that plain PEFT serves."""
    root, loaded = tmp_path_factory.mktemp("plain"), random_model()
    return {name: make_adapter(loaded, root / name, seed, **PLAIN[name]) for seed, name in enumerate(PLAIN)}


@pytest.fixture
def plainly(tmp_path, plain_folders):
    """An engine whose cache holds ``blocks`` of 16 tokens, and ``plain_bytes`` of such adapters at a time."""
    made = []

    def make(blocks, plain_bytes=None, alone_tokens=None):
        memory = MemoryPlan(blocks, 16, 1, 1, plain_bytes=plain_bytes, alone_tokens=alone_tokens)
        made.append(Driver(tmp_path / f"{len(made)}", plain_folders, memory=memory))
        return made[-1]

    yield make
    for driver in made:
        driver.engine.close()


def test_requests_of_plain_peft_take_blocks_of_the_cache_and_wait_for_them(plainly, plain_folders):
    """Room for two of them at a time, and for none to its end beside another: they are preempted, and say the same."""
    expected, driver = Oracle(random_model(), plain_folders), plainly(blocks=14)
    jobs = [Job(((name, 1.0),), (wave,), "a") for wave in range(2) for name in PLAIN] + [Job((), (1,), "a")]
    answers = driver.ask(*jobs)
    assert [answer.error for answer in answers] == [None] * len(jobs)
    assert [answer.tokens for answer in answers] == [expected(job) for job in jobs]
    driver.assert_idle()


def test_adapters_of_plain_peft_take_turns_in_their_share(plainly, plain_folders):
    expected, driver = Oracle(random_model(), plain_folders), plainly(blocks=200, plain_bytes=40_000)
    fallback = driver.engine.runner.peft_fallback
    jobs = [Job(((name, 1.0),), (wave,), "a") for wave in range(2) for name in ("dora", "bias")]
    answers = driver.ask(*jobs)
    assert [answer.tokens for answer in answers] == [expected(job) for job in jobs]
    assert sum(fallback._bytes.values()) <= 40_000
    assert fallback._bytes.keys() == fallback._models.keys()


def test_what_plain_peft_has_no_memory_for_is_refused_in_words(plainly):
    driver = plainly(blocks=200, plain_bytes=1000)
    (answer,) = driver.ask(Job((("dora", 1.0),)))
    assert isinstance(answer.error, BadRequest)
    assert "'dora' takes 0 MB, and this server's memory has room for 0 MB" in str(answer.error)
    driver = plainly(blocks=200, alone_tokens=64)
    with pytest.raises(PromptTooLong, match="which cannot join a batch, this server has memory for 64"):
        driver.submit(Job((("dora", 1.0),)))
    assert driver.ask(Job())[0].done
