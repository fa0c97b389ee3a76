"""The engine's limits are those of the settings."""

import gc
from dataclasses import asdict, fields

import pytest

from app.engine.config import EngineConfig
from app.service.service import engine_config, freeze_gc_heap
from app.settings import Settings


def test_every_limit_of_the_engine_is_set() -> None:
    """Each value differs from its default, and none equals another."""
    wanted = {
        "max_resident": 3,
        "max_batch": 5,
        "max_queue": 7,
        "step_tokens": 17,
        "max_context": 99,
        "host_cache_bytes": 11 << 20,
        "encoder_cache_bytes": 13 << 20,
        "decoder": "modules",
    }
    assert {field.name for field in fields(EngineConfig)} == set(wanted), "give the new field a value here"
    sent = {name: value for name, value in wanted.items() if not name.endswith("_bytes")}
    settings = Settings(**sent, host_cache_mb=11, encoder_cache_mb=13)  # type: ignore[arg-type]
    assert asdict(engine_config(settings)) == wanted


def test_a_frozen_heap_is_left_out_of_collections() -> None:
    assert gc.get_freeze_count() == 0
    freeze_gc_heap()
    try:
        assert gc.get_freeze_count() > 100_000
    finally:
        gc.unfreeze()


def test_the_cap_of_a_server_is_not_that_of_its_jobs(monkeypatch: pytest.MonkeyPatch) -> None:
    """A trainer beside the service has what the service leaves: neither the variable nor `.env` caps it as well."""
    monkeypatch.setenv("OVERTONE_GPU_GB", "24")
    settings = Settings(_env_file=None)  # type: ignore[call-arg]
    assert settings.gpu_gb == 24.0
    child = settings.for_children()
    monkeypatch.setenv("OVERTONE_GPU_GB", child["OVERTONE_GPU_GB"])
    assert Settings(_env_file=None).gpu_gb is None  # type: ignore[call-arg]
