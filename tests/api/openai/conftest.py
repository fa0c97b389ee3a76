"""overtone-tiny behind a real uvicorn on a real socket, spoken to by the official `openai` client."""

import shutil
import socket
import threading
import time
from base64 import b64encode
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from openai import AsyncOpenAI, OpenAI

from app.main import create_app
from app.service import Service
from app.settings import Settings

ROOT = Path(__file__).parents[3]
HUMAN = ROOT / "tests" / "data" / "human"
COMMAND = HUMAN / "goforward.flac"
BASE = "overtone-tiny"
CLIENTS = ROOT / "build" / "clients" / "bin"  # made by `make clients`: other people's clients, for optional tests


@dataclass(frozen=True)
class Live:
    """A running server; ``source``: a folder whose adapters it may load."""

    url: str
    service: Service
    source: Path


def heard(path: Path = COMMAND, prompt: str | None = "Transcribe the audio.") -> list[dict[str, Any]]:
    """A user's message with a recording, as OpenAI takes it."""
    data = b64encode(path.read_bytes()).decode()
    parts: list[dict[str, Any]] = [{"type": "input_audio", "input_audio": {"data": data, "format": "flac"}}]
    return [{"role": "user", "content": parts + ([{"type": "text", "text": prompt}] if prompt else [])}]


@contextmanager
def serving(root: Path, **changed: Any) -> Iterator[Live]:
    """A server of its own, with the two adapters of the repository in its registry."""
    for name in ("nato", "command-json"):
        shutil.copytree(ROOT / "adapters" / name, root / "adapters" / name)
    source = root / "source"
    shutil.copytree(ROOT / "adapters" / "nato", source / "spelling")
    (source / "spelling" / "manifest.json").unlink()
    usual: dict[str, Any] = dict(device="cpu", adapters=root / "adapters", jobs=root / "jobs", kv_gb=0.1)
    app = create_app(Settings(_env_file=None, adapter_roots=(source,), **(usual | changed)))
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", loop="uvloop", http="httptools", ws="none"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    try:
        with httpx.Client(base_url=url, trust_env=False) as probe:
            limit = time.monotonic() + 60
            while not (server.started and probe.get("/ready").status_code == 200):
                assert time.monotonic() < limit
                time.sleep(0.05)
        yield Live(url, app.state.overtone.service, source)
    finally:
        server.should_exit = True
        thread.join()


@pytest.fixture(scope="session")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    """One server for all tests that leave it as they found it."""
    with serving(tmp_path_factory.mktemp("openai")) as started:
        yield started


@pytest.fixture(scope="session")
def plain(live: Live) -> Iterator[httpx.Client]:
    """For what the `openai` client has no method for."""
    with httpx.Client(base_url=live.url, timeout=60, trust_env=False) as client:
        yield client


@pytest.fixture(scope="session")
def openai(live: Live) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{live.url}/v1", api_key="unused", max_retries=0) as client:
        yield client


@pytest.fixture(scope="session")
async def async_openai(live: Live) -> AsyncIterator[AsyncOpenAI]:
    async with AsyncOpenAI(base_url=f"{live.url}/v1", api_key="unused", max_retries=0) as client:
        yield client
