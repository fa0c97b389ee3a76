"""A real server process on a real socket: disconnects, huge bodies, SIGTERM."""

import asyncio
import json
import os
import shutil
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.api.conftest import ask, events_of, ready, until

ROOT = Path(__file__).parents[2]
ENDLESS = {"prompt": "go on", "max_new_tokens": "1900", "stream": "true"}
SCRIPT = "from app.main import serve; from app.settings import Settings; serve(Settings(_env_file=None))"


class Server:
    """`serve` in a child process."""

    def __init__(
        self, process: asyncio.subprocess.Process, client: httpx.AsyncClient, port: int, adapters: Path
    ) -> None:
        self.process = process
        self.client = client
        self.port = port
        self.adapters = adapters

    async def until_running(self, wanted: int) -> None:
        async def told() -> bool:
            running: int = (await self.client.get("/ready")).json()["running"]
            return running == wanted

        await until(told)

    @property
    def peak_mb(self) -> int:
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        (line,) = [line for line in status.splitlines() if line.startswith("VmHWM")]
        return int(line.split()[1]) >> 10


@pytest.fixture(scope="module")
def start(model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Any]:
    @asynccontextmanager
    async def run(script: str = SCRIPT, within: Sequence[str] = (), **changed: str) -> AsyncIterator[Server]:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        values = {
            "model": str(model_folder),
            "adapters": str(tmp_path_factory.mktemp("registry")),
            "jobs": str(tmp_path_factory.mktemp("jobs")),
            "device": "cpu",
            "kv_gb": "0.05",
        }
        values |= {"port": str(port), "max_context": "2048", "cpu_threads": "1"} | changed
        plain = {name: value for name, value in os.environ.items() if not name.startswith("OVERTONE_")}
        process = await asyncio.create_subprocess_exec(
            *within,
            sys.executable,
            "-c",
            script,
            cwd=ROOT,
            env=plain | {f"OVERTONE_{name.upper()}": value for name, value in values.items()},
            stderr=asyncio.subprocess.PIPE,
        )
        try:
            url = f"http://127.0.0.1:{port}"
            async with httpx.AsyncClient(base_url=url, timeout=60, trust_env=False) as client:
                yield Server(process, client, port, Path(values["adapters"]))
        finally:
            with suppress(ProcessLookupError):
                process.kill()
            await process.communicate()

    return run


async def up(server: Server) -> None:
    async with asyncio.timeout(240):
        while True:
            with suppress(httpx.TransportError):
                await ready(server.client)
                return
            await asyncio.sleep(0.1)


@pytest.fixture(scope="module")
async def server(start: Callable[..., Any]) -> AsyncIterator[Server]:
    """One process for several tests; the last of them stops it."""
    async with start() as server:
        await up(server)
        yield server


async def test_work_stops_when_the_client_leaves(server: Server) -> None:
    client = server.client
    async with client.stream("POST", "/generate", data=ENDLESS) as response:
        lines = response.aiter_lines()  # kept: it closes the response when it is collected
        await anext(lines)
        await server.until_running(1)
        assert (await anext(lines)).startswith("data: ")
    await server.until_running(0)
    fields = {name: value for name, value in ENDLESS.items() if name != "stream"}
    waiting = asyncio.create_task(client.post("/generate", data=fields))
    await server.until_running(1)
    waiting.cancel()
    await server.until_running(0)
    metrics = (await client.get("/metrics")).text
    assert 'overtone_requests_total{adapter="base",outcome="cancelled"} 2.0' in metrics
    assert "overtone_kv_pages_used 0.0" in metrics
    await ask(client)


async def test_the_command_line_over_a_server(server: Server, adapter_folders: dict[str, Path], tmp_path: Path) -> None:
    async def overtone(*words: str, as_json: bool = True) -> Any:
        command = ["-m", "app.cli.main", "adapters", *words, "--server", str(server.client.base_url)]
        command += ["--json"] * as_json
        child = await asyncio.create_subprocess_exec(
            sys.executable, *command, cwd=ROOT, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
        )
        out, err = await child.communicate()
        return json.loads(out or err) if as_json else out.decode() + err.decode()

    folder = str(adapter_folders["alpha"])
    added = await overtone("add", folder, "--name", "mine")
    assert (added["name"], added["version"]) == ("mine", 1)
    assert (await overtone("add", folder, "--name", "mine"))["error"]["code"] == "conflict"
    archive = shutil.make_archive(str(tmp_path / "beta"), "zip", adapter_folders["beta"])
    assert (await overtone("add", archive, "--name", "mine", "--replace"))["version"] == 2
    assert (await overtone("rollback", "mine"))["version"] == 1
    assert (await overtone("inspect", "mine"))["versions"] == [1, 2]
    assert (await overtone("select", "mine"))["active"] == "mine"
    answer = await ask(server.client)
    assert answer["adapter"] == {"name": "mine", "version": 1}
    unloaded = await overtone("unload")
    assert (unloaded["unchanged"], unloaded["freed"]) == (True, ["mine@1"])
    assert [adapter["name"] for adapter in (await overtone("list"))["adapters"]] == ["mine"]
    (server.adapters / "half").mkdir()
    (server.adapters / "half" / "adapter_config.json").write_text("{}")

    async def noticed() -> bool:
        return bool((await server.client.get("/ready")).json()["broken_adapters"])

    await until(noticed)
    for words in (("list",), ("inspect", "half")):
        assert "half cannot be served" in await overtone(*words, as_json=False)
    assert (await overtone("remove", "mine"))["removed"] == "mine"
    assert (await overtone("inspect", "mine"))["error"]["code"] == "adapter_not_found"


async def test_100_mb_harm_neither_memory_nor_neighbour(server: Server) -> None:
    client = server.client
    neighbour = asyncio.create_task(client.post("/generate", data=ENDLESS | {"max_new_tokens": "300"}))
    before = server.peak_mb
    block = bytes(1 << 20)
    start = b'--x\r\nContent-Disposition: form-data; name="audio"; filename="a.wav"\r\n\r\n'

    async def body() -> AsyncIterator[bytes]:
        yield start
        for _ in range(100):
            yield block

    headers = {"content-type": "multipart/form-data; boundary=x"}
    announced = headers | {"content-length": str(len(start) + 100 * len(block))}
    for sent in (announced, headers):
        refused = await client.post("/generate", content=body(), headers=sent)
        assert (refused.status_code, refused.json()["code"]) == (413, "too_large")
    # up to the limit of 64 MB a chunked body is spooled to disk
    assert server.peak_mb - before < 40
    assert events_of((await neighbour).text)[-1][0] == "done"
    await ask(client)


async def test_sigterm_lets_running_requests_end(server: Server) -> None:
    async with server.client.stream("POST", "/generate", data=ENDLESS | {"max_new_tokens": "600"}) as response:
        lines = response.aiter_lines()
        await anext(lines)
        server.process.send_signal(signal.SIGTERM)

        async def closed() -> bool:  # the socket: load balancers go elsewhere
            try:
                async with httpx.AsyncClient(trust_env=False) as other:
                    await other.get(f"http://127.0.0.1:{server.port}/ready")
            except httpx.TransportError:
                return True
            return False

        await until(closed)
        rest = [line async for line in lines]
    done = json.loads(next(line for line in reversed(rest) if line).removeprefix("data: "))
    assert done["usage"]["completion_tokens"] == 600
    assert await asyncio.wait_for(server.process.wait(), 60) == 0


async def test_a_model_that_cannot_be_loaded_ends_the_process(start: Callable[..., Any], tmp_path: Path) -> None:
    async with start(model=str(tmp_path)) as server:
        _, log = await asyncio.wait_for(server.process.communicate(), 180)
        assert server.process.returncode == 1
        assert "could not be loaded" in log.decode()
