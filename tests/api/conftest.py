"""A small random model on disk, and the app over it, spoken to through ASGI."""

import asyncio
import io
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import soundfile
from fastapi import FastAPI

from app.main import create_app
from app.models.loading import LoadedModel
from app.models.prompt import PromptRenderer
from app.settings import Settings
from tests.support import make_adapter, random_model, tone

Running = Callable[..., AbstractAsyncContextManager[httpx.AsyncClient]]


def wav(samples: np.ndarray | None = None, rate: int = 16_000, kind: str = "WAV", subtype: str | None = None) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, tone(220, 0.5) if samples is None else samples, rate, format=kind, subtype=subtype)
    return buffer.getvalue()


def audio(data: bytes | None = None, name: str = "clip.wav") -> list[tuple[str, tuple[str, bytes]]]:
    return [("audio", (name, wav() if data is None else data))]


def events_of(text: str) -> list[tuple[str, Any]]:
    """Server-sent events as (kind, data)."""
    found = []
    for block in text.strip().split("\n\n"):
        if block.startswith(":"):
            continue
        kind, data = block.split("\n")
        found.append((kind.removeprefix("event: "), json.loads(data.removeprefix("data: "))))
    return found


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    """Wait for what only shows from outside."""
    async with asyncio.timeout(120):
        while not await condition():  # noqa: ASYNC110
            await asyncio.sleep(0.005)


async def busy(client: httpx.AsyncClient, key: str = "") -> None:
    """Wait until a sequence is being continued. ``key``: one that may see it, where the server has keys."""

    async def told() -> bool:
        return bool((await client.get("/ready", headers={"X-API-Key": key})).json()["running"])

    await until(told)


async def ready(client: httpx.AsyncClient) -> None:
    async def told() -> bool:
        return (await client.get("/ready")).status_code == 200

    await until(told)


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The random model with silenced end tokens: greedy answers last as long as they may."""
    folder = tmp_path_factory.mktemp("model") / "random-tiny"
    loaded = random_model()
    loaded.model.lm_head.weight[list(PromptRenderer(loaded.processor).eos_ids)] = 0
    loaded.model.save_pretrained(folder)
    loaded.processor.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def adapter_folders(loaded: LoadedModel, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Two adapters, as `save_pretrained` writes them."""
    root = tmp_path_factory.mktemp("made")
    return {name: make_adapter(loaded, root / name, seed) for seed, name in enumerate(("alpha", "beta"), start=1)}


@pytest.fixture(scope="session")
def settings(model_folder: Path) -> Callable[..., Settings]:
    """Settings over the random model; the environment and .env files of whoever runs the tests stay out."""

    def make(adapters: Path, **changed: Any) -> Settings:
        defaults: dict[str, Any] = dict(
            model=str(model_folder),
            device="cpu",
            dtype="float32",
            adapters=adapters,
            jobs=adapters.with_name(f"{adapters.name}-jobs"),
            kv_gb=0.05,
            watch_seconds=0.05,
        )
        return Settings(_env_file=None, **(defaults | changed))

    return make


@pytest.fixture(scope="session")
def running(
    settings: Callable[..., Settings],
    adapter_folders: dict[str, Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> Running:
    """`async with running(**settings) as client`: an app of its own, ready, with alpha and beta in its registry."""

    @asynccontextmanager
    async def run(**changed: Any) -> AsyncIterator[httpx.AsyncClient]:
        root = tmp_path_factory.mktemp("registry")
        for name, folder in adapter_folders.items():
            (root / name).mkdir()
            for file in folder.iterdir():
                (root / name / file.name).write_bytes(file.read_bytes())
        app = create_app(settings(root, **changed))
        async with app.router.lifespan_context(app), client_of(app) as client:
            await ready(client)
            client.app = app  # type: ignore[attr-defined]
            yield client

    return run


@pytest.fixture(scope="session")
async def client(running: Running) -> AsyncIterator[httpx.AsyncClient]:
    """One app for all tests that leave it as they found it."""
    async with running(max_upload_mb=4, max_adapter_mb=8, max_audio_seconds=60, max_context=512) as client:
        yield client


def client_of(app: FastAPI) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://test", timeout=60)


async def ask(client: httpx.AsyncClient, **fields: Any) -> dict[str, Any]:
    """A good answer."""
    response = await client.post("/generate", data={"max_new_tokens": "8"} | fields, files=audio())
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    return answer
