"""Audio Flamingo 3 in the engine, both decoders: token ids equal plain transformers + PEFT, each request alone."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.engine import driver as driving
from tests.engine.driver import Driver, Job, Oracle
from tests.flamingo import random_flamingo
from tests.support import SECONDS, make_adapter, tone

pytestmark = pytest.mark.slow

ADAPTERS: dict[str, dict[str, Any]] = {
    "qv": {},
    "everything": {"r": 16, "target_modules": r".*\.(\w+_proj|fc1|fc2|linear_1|linear_2)"},
    "tower": {"target_modules": r".*audio_tower.*(q_proj|v_proj|fc1)"},
    "projector-lora": {"target_modules": r".*multi_modal_projector.linear_\d"},
    "projector": {"modules_to_save": ["multi_modal_projector"]},
    "head": {"target_modules": r"lm_head"},
    "dora": {"use_dora": True},
}
MIXES = [(("qv", 0.7), ("everything", 0.3)), (("tower", 0.6), ("projector-lora", 0.4)), (("everything", 0.5),)]
LONG = 4  # the wave that takes several windows


@pytest.fixture(scope="module", autouse=True)
def _long_wave() -> Any:
    driving.WAVES.append(tone(700, 2.6 * SECONDS))
    yield
    driving.WAVES.pop()


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root, loaded = tmp_path_factory.mktemp("af3"), random_flamingo()
    return {
        name: make_adapter(loaded, root / name, seed, **config)
        for seed, (name, config) in enumerate(ADAPTERS.items(), start=1)
    }


@pytest.fixture(scope="module")
def expected(folders: dict[str, Path]) -> Oracle:
    return Oracle(random_flamingo(), folders)


JOBS = [
    Job(),
    *[Job(((name, 1.0),), (index % 4,), f"say {name}") for index, name in enumerate(ADAPTERS)],
    *[Job(mix, (1,)) for mix in MIXES],
    Job((), (LONG,), "a long one"),
    Job((("everything", 1.0),), (LONG,), "a long one"),
    Job((("dora", 1.0),), (LONG,), "a long one"),
    Job((), (), "no audio"),
]


def test_every_adapter_changes_the_answer(expected: Oracle) -> None:
    for job in JOBS[1 : 1 + len(ADAPTERS)]:
        assert expected(job) != expected(Job((), job.waves, job.prompt)), job.mix


def test_all_in_one_batch(drive: Callable[..., Driver], expected: Oracle) -> None:
    driver = drive(loaded=random_flamingo())
    assert [answer.tokens for answer in driver.ask(*JOBS)] == [expected(job) for job in JOBS]
    driver.assert_idle()


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory, folders: dict[str, Path]) -> Iterator[Driver]:
    """Three slots for seven adapters, so that they come and go."""
    driver = Driver(tmp_path_factory.mktemp("shared"), folders, loaded=random_flamingo(), max_resident=3)
    yield driver
    driver.engine.close()


@settings(max_examples=8, deadline=None, suppress_health_check=list(HealthCheck))
@given(jobs=st.lists(st.sampled_from(JOBS), min_size=2, max_size=10))
def test_random_mixed_batches(shared: Driver, expected: Oracle, jobs: list[Job]) -> None:
    assert [answer.tokens for answer in shared.ask(*jobs)] == [expected(job) for job in jobs]
    shared.assert_idle()


def test_alone_and_in_chunks(drive: Callable[..., Driver], expected: Oracle) -> None:
    driver = drive(loaded=random_flamingo(), step_tokens=24)
    for job in (JOBS[0], JOBS[2], JOBS[-3], JOBS[-4]):
        assert driver.ask(job)[0].tokens == expected(job)


@pytest.mark.skipif(torch.cuda.is_available(), reason="tests/gpu runs the kernels themselves")
@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # NumPy's, at NaN
def test_fused_decoder(drive: Callable[..., Driver], expected: Oracle, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("triton", reason="needs Triton; without a GPU its interpreter is enough")
    from app.engine.cuda import decoder as cuda_decoder
    from app.engine.cuda import language_model

    for name in ("_ROW_STEP", "TILE"):
        monkeypatch.setattr(cuda_decoder, name, 16)
    monkeypatch.setattr(cuda_decoder, "_ROWS", ())
    monkeypatch.setattr(language_model, "TILE", 16)
    monkeypatch.setattr(cuda_decoder, "_MIXED", (2,))
    monkeypatch.setattr(language_model, "_PROGRAMS", 16)
    monkeypatch.setattr(cuda_decoder.CudaDecoder, "warm_up", lambda self: None)
    driver = drive(loaded=random_flamingo(), decoder="fused", max_batch=8, max_context=256, step_tokens=512)
    jobs = [JOBS[0], JOBS[2], JOBS[6], JOBS[-3]]
    answers = driver.ask(*jobs, sampling=driving.greedy(4))
    assert [answer.tokens for answer in answers] == [expected(job)[:4] for job in jobs]
