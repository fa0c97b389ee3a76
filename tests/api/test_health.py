import asyncio
import logging
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from anyio import to_thread
from prometheus_client.parser import text_string_to_metric_families

from app.audio.pool import DecodingPool, NoDecoder
from app.main import create_app
from app.service import Service
from app.service.adapters import TenantAdapters
from app.settings import Settings
from tests.api.conftest import Running, ask, client_of, ready, until


async def samples(client: httpx.AsyncClient) -> dict[tuple[str, str], float]:
    """(name, value of the adapter label) -> value"""
    response = await client.get("/metrics")
    assert response.headers["content-type"].startswith("text/plain")
    families = text_string_to_metric_families(response.text)
    return {(s.name, s.labels.get("adapter", "")): s.value for family in families for s in family.samples}


async def test_ready_tells_what_is_served(client: httpx.AsyncClient) -> None:
    assert (await client.get("/health")).json()["status"] == "ok"
    told = (await client.get("/ready")).json()
    assert (told["model"], told["device"], told["dtype"]) == ("random-tiny", "cpu", "float32")
    assert told["weights"] == "bfloat16", "not quantised"
    assert (told["adapters"], told["broken_adapters"], told["max_context"]) == (2, 0, 512)
    assert told["memory"]["kv_tokens"] > 512
    assert len(told["fingerprint"]) == 64


async def test_alive_but_not_ready_while_loading(
    settings: Callable[..., Settings], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    go_on, real = threading.Event(), Service.open

    def slow(chosen: Settings) -> Service:
        go_on.wait(240)
        return real(chosen)

    monkeypatch.setattr(Service, "open", slow)
    app = create_app(settings(tmp_path))
    async with app.router.lifespan_context(app), client_of(app) as client:
        assert (await client.get("/health")).status_code == 200
        for method, path in [("GET", "/ready"), ("GET", "/adapters"), ("POST", "/unload")]:
            response = await client.request(method, path)
            assert (response.status_code, response.json()["code"]) == (503, "not_ready")
            assert "loaded" in response.json()["detail"]
        assert (await client.post("/generate", data={"prompt": "x"})).status_code == 503
        assert (await client.get("/metrics")).status_code == 200
        go_on.set()
        await ready(client)
        await ask(client)


async def test_closing_while_loading_closes_the_engine(settings: Callable[..., Settings], tmp_path: Path) -> None:
    app = create_app(settings(tmp_path))
    async with app.router.lifespan_context(app):
        await asyncio.sleep(0)
    state = app.state.overtone
    assert not state.service.engine._thread.is_alive()


async def test_a_model_that_cannot_be_loaded(
    settings: Callable[..., Settings], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    stopped = asyncio.Event()
    (tmp_path / "empty").mkdir()
    app = create_app(settings(tmp_path, model=str(tmp_path / "empty")))
    app.state.overtone.on_failure = stopped.set
    async with app.router.lifespan_context(app), client_of(app) as client:
        await asyncio.wait_for(stopped.wait(), 180)
        response = await client.get("/ready")
        assert response.status_code == 503
        assert "could not be loaded" in response.json()["detail"]
        assert "there is no config.json" in response.json()["detail"]
        assert str(tmp_path) not in response.text  # anybody may ask
    assert "could not be opened" in caplog.text


async def test_metrics(running: Running) -> None:
    async with running() as client:
        await ask(client, adapter="alpha")
        await ask(client, adapter="alpha")
        await ask(client)
        await ask(client, adapter="alpha:0.5,beta:0.5")
        await client.post("/generate", data={"adapter": "nobody", "prompt": "x"})
        await client.get("/nowhere/at/all")
        found = await samples(client)
        assert found["overtone_ttft_seconds_count", "alpha"] == 2
        assert found["overtone_request_seconds_count", "base"] == 1
        assert found["overtone_inter_token_seconds_count", "mix"] == 1
        assert found["overtone_audio_seconds_total", "alpha"] == 1.0
        assert found["overtone_completion_tokens_total", "base"] > 0
        assert found["overtone_prompt_tokens_total", "base"] > 12
        assert found["overtone_adapter_cold_loads_total", ""] == 2
        assert found["overtone_slots_used", ""] == 2
        assert found["overtone_decoder_crashes_total", ""] == 0
        assert found["overtone_encoder_cache_misses_total", ""] == 1
        assert found["overtone_encoder_cache_hits_total", ""] == 3
        assert found["overtone_queue_depth", ""] == found["overtone_running_sequences", ""] == 0
        assert found["overtone_kv_pages_used", ""] == 0
        assert ("overtone_requests_total", "nobody") not in found
        text = (await client.get("/metrics")).text
        assert 'overtone_http_responses_total{route="/generate",status="404"} 1.0' in text
        assert 'overtone_http_responses_total{route="none",status="404"} 1.0' in text
        assert "nowhere" not in text


async def test_request_ids(client: httpx.AsyncClient) -> None:
    assert (await client.get("/health", headers={"X-Request-Id": "mine-1"})).headers["x-request-id"] == "mine-1"
    for forged in ("a b", "x" * 200, ""):
        made = (await client.get("/health", headers={"X-Request-Id": forged})).headers["x-request-id"]
        assert made != forged
        assert len(made) == 16


async def test_what_nobody_expected(
    running: Running, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: Any) -> None:
        raise ZeroDivisionError("secret internals")

    async with running() as client:
        with monkeypatch.context() as patch:
            patch.setattr(TenantAdapters, "resolve", broken)
            response = await client.post("/generate", data={"prompt": "x"}, headers={"X-Request-Id": "find-me"})
        assert response.status_code == 500
        assert response.json()["code"] == "internal_error"
        assert response.headers["x-request-id"] == response.json()["instance"] == "find-me"
        assert "secret" not in response.text
        assert any("find-me" in r.getMessage() and r.levelno == logging.ERROR for r in caplog.records)
        await ask(client)


async def test_every_route_is_documented(client: httpx.AsyncClient) -> None:
    told = (await client.get("/openapi.json")).json()
    assert "Problem" in told["components"]["schemas"]
    assert "HTTPValidationError" not in told["components"]["schemas"]
    for path, methods in told["paths"].items():
        for method, operation in methods.items():
            assert operation["tags"], path
            assert operation["description"], path
            for status, response in operation["responses"].items():
                if status >= "400":
                    shape = "application/json" if path.startswith("/v1") else "application/problem+json"
                    assert list(response["content"]) == [shape], (method, path, status)
    form = told["paths"]["/generate"]["post"]["requestBody"]["content"]
    assert list(form) == ["multipart/form-data"]
    assert (await client.get("/docs")).status_code == 200


async def test_probes_never_wait_for_others_requests(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    """200 unloads, all of which wait for the engine, take no thread that a probe or another route needs."""
    begun, go_on, unload = threading.Event(), threading.Event(), TenantAdapters.unload

    def slow(adapters: TenantAdapters, name: str | None = None) -> list[str]:
        begun.set()
        go_on.wait(120)
        return unload(adapters, name)

    monkeypatch.setattr(TenantAdapters, "unload", slow)
    async with running() as client:
        waiting = [asyncio.create_task(client.post("/unload")) for _ in range(200)]
        try:
            await asyncio.to_thread(begun.wait, 60)
            for path in ("/health", "/ready", "/metrics", "/adapters"):
                assert (await client.get(path)).status_code == 200
            await ask(client)
            assert not any(one.done() for one in waiting)
        finally:
            go_on.set()
        assert {answer.status_code for answer in await asyncio.gather(*waiting)} == {200}


async def test_probes_need_no_worker_thread_of_others(running: Running) -> None:
    """All of the threads that routes share are taken."""
    go_on = threading.Event()
    async with running() as client:
        limiter = to_thread.current_default_thread_limiter()
        taken = [asyncio.create_task(to_thread.run_sync(go_on.wait)) for _ in range(int(limiter.total_tokens) + 5)]
        try:

            async def all_taken() -> bool:
                return limiter.available_tokens == 0

            await until(all_taken)
            async with asyncio.timeout(60):
                for path in ("/health", "/ready", "/metrics"):
                    assert (await client.get(path)).status_code == 200
        finally:
            go_on.set()
        await asyncio.gather(*taken)


async def test_ready_waits_for_a_decoding_process(
    settings: Callable[..., Settings], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first recording meets a process that answers."""
    begun, go_on, real, pools = threading.Event(), threading.Event(), DecodingPool._start, []

    def slow(pool: DecodingPool[Any]) -> Any:
        pools.append(pool)
        begun.set()
        go_on.wait(240)
        return real(pool)

    monkeypatch.setattr(DecodingPool, "_start", slow)
    app = create_app(settings(tmp_path))
    async with app.router.lifespan_context(app), client_of(app) as client:
        await asyncio.to_thread(begun.wait, 60)
        await asyncio.sleep(1.0)  # in which everything else is there
        assert (await client.get("/ready")).json()["code"] == "not_ready"
        assert (await client.get("/health")).status_code == 200
        go_on.set()
        await ready(client)
        (worker,) = pools[0]._workers
        await ask(client)
        assert len(pools) == 1  # that one answered it
        assert worker in pools[0]._workers


async def test_a_machine_that_starts_no_decoding_process_is_told_of(
    settings: Callable[..., Settings], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: DecodingPool[Any]) -> None:
        raise NoDecoder("No process that decodes recordings could be started.")

    monkeypatch.setattr(DecodingPool, "_start", refuse)
    app = create_app(settings(tmp_path))
    failed = asyncio.Event()
    app.state.overtone.on_failure = failed.set
    async with app.router.lifespan_context(app), client_of(app) as client:
        await asyncio.wait_for(failed.wait(), 180)
        assert (await client.get("/ready")).status_code == 503
    assert isinstance(app.state.overtone.failure, NoDecoder)
