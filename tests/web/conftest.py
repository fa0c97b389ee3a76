"""The page in a real Chromium, over a real server with the embedded model and a microphone that plays a file."""

import asyncio
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest
import soundfile
from playwright import async_api as playwright

from app.settings import EMBEDDED_MODEL
from tests.support import make_head
from training.sample_data import write

ROOT = Path(__file__).parents[2]
SPOKEN = ROOT / "tests" / "data" / "human" / "goforward.flac"  # "go forward ten meters"
TOWER = json.loads((EMBEDDED_MODEL / "config.json").read_text())["audio_config"]["d_model"]
KEY = "a-key-for-tests"
SCRIPT = "from app.main import serve; from app.settings import Settings; serve(Settings(_env_file=None))"
NAMES = ("chromium", "chromium-browser", "google-chrome")
STORED_KEY = f"sessionStorage.setItem('overtone.key', '{KEY}')"


@dataclass
class Opened:
    """A page of the browser, and what its console has complained about."""

    page: playwright.Page
    url: str
    complaints: list[str] = field(default_factory=list)

    async def go(self, view: str) -> None:
        """To a view, as soon as it is drawn and knows how the service stands."""
        await self.page.goto(f"{self.url}/#/{view}")
        await self.page.locator(".lamp:not(.wait), dialog").first.wait_for(state="attached")


async def until(condition: Callable[[], Awaitable[bool]], seconds: float = 20) -> None:
    """Wait for what no locator can wait for; the page's policy forbids Playwright's own `wait_for_function`."""
    async with asyncio.timeout(seconds):
        while not await condition():  # noqa: ASYNC110
            await asyncio.sleep(0.05)


Visit = Callable[..., AbstractAsyncContextManager[Opened]]


@pytest.fixture(scope="session")
def chromium() -> str:
    """Skips where there is none."""
    found = next(filter(None, map(shutil.which, NAMES)), None)
    if found is None:
        pytest.skip("the page's tests need Chromium: `apt install chromium`")
    return found


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Registry, jobs and data sets of the server."""
    folder = tmp_path_factory.mktemp("web")
    shutil.copytree(ROOT / "adapters", folder / "adapters")
    make_head(folder / "adapters" / "kinds", width=TOWER)
    write(folder / "sets" / "tones", 24)
    return folder


@pytest.fixture(scope="session")
def server(chromium: str, folder: Path) -> Iterator[str]:
    """The address of a running service that wants a key."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    values = {
        "model": EMBEDDED_MODEL, "adapters": folder / "adapters", "jobs": folder / "jobs", "device": "cpu",
        "kv_gb": "0.05", "max_context": "1024", "port": port, "api_keys": KEY, "watch_seconds": "0.3",
        "dataset_roots": folder / "sets", "feedback": folder / "feedback",
    }  # fmt: skip
    plain = {name: value for name, value in os.environ.items() if not name.startswith("OVERTONE_")}
    # training is small here: more threads than cores would only wait for each other
    environment = (
        plain | {"OMP_NUM_THREADS": "1"} | {f"OVERTONE_{name.upper()}": str(value) for name, value in values.items()}
    )
    with (folder / "server.log").open("wb") as log:
        process = subprocess.Popen([sys.executable, "-c", SCRIPT], cwd=ROOT, env=environment, stderr=log)
    url = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + 180
        while not _ready(url):
            assert process.poll() is None, "the server ended"
            assert time.monotonic() < deadline, "the server is not ready"
            time.sleep(0.1)
        yield url
    finally:
        process.terminate()
        process.wait(30)


def _ready(url: str) -> bool:
    try:
        return httpx.get(f"{url}/ready", trust_env=False).status_code == 200
    except httpx.TransportError:
        return False


@pytest.fixture(scope="session")
async def browser(chromium: str, folder: Path) -> AsyncIterator[playwright.Browser]:
    samples, rate = soundfile.read(SPOKEN)
    soundfile.write(folder / "spoken.wav", samples, rate)
    flags = [
        "--use-fake-device-for-media-stream",
        "--use-fake-ui-for-media-stream",
        f"--use-file-for-fake-audio-capture={folder / 'spoken.wav'}",
    ]
    async with playwright.async_playwright() as driver:
        # Chromium's sandbox wants rights that root in a container has not
        browser = await driver.chromium.launch(executable_path=chromium, args=flags, chromium_sandbox=os.geteuid() != 0)
        yield browser
        await browser.close()


@pytest.fixture(scope="session")
def visit(server: str, browser: playwright.Browser) -> Visit:
    """`async with visit("try") as opened`: a fresh visitor with the key; fails when the console has complained."""

    @asynccontextmanager
    async def open_page(view: str = "try", *, key: bool = True, **context: object) -> AsyncIterator[Opened]:
        options = {"viewport": {"width": 1280, "height": 900}, "locale": "en-GB", "reduced_motion": "reduce"} | context
        visitor = await browser.new_context(**options)
        if key:
            await visitor.add_init_script(STORED_KEY)
        page = await visitor.new_page()
        page.set_default_timeout(20_000)
        opened = Opened(page, server)
        page.on("pageerror", lambda error: opened.complaints.append(str(error)))
        page.on("console", lambda said: opened.complaints.append(said.text) if said.type in COMPLAINTS else None)
        try:
            await opened.go(view)
            yield opened
            assert not opened.complaints
        finally:
            await visitor.close()

    return open_page


COMPLAINTS = ("error", "warning")
