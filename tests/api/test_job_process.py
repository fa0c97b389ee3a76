"""A training job outlives a killed service, and ends with one that is stopped; real processes throughout."""

import asyncio
import json
import signal
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import httpx
import psutil

from tests.api import test_process
from tests.api.test_jobs import blocks, job, queue, reached, stepped
from tests.api.test_process import Server, up
from tests.jobs.support import STAND_IN

start = test_process.start
SCRIPT = f"from app.jobs import command; command.TRAINER = {STAND_IN!r}; {test_process.SCRIPT}"


async def listen(client: httpx.AsyncClient, identity: str, after: int = 0) -> AsyncIterator[str]:
    """Blocks as they arrive over the socket."""
    url, headers = f"/training/jobs/{identity}/events", {"Last-Event-ID": str(after)}
    async with client.stream("GET", url, headers=headers) as response:
        block = ""
        async for line in response.aiter_lines():
            block += f"{line}\n"
            if not line:
                yield block
                block = ""


def trainers(folder: Path) -> list[psutil.Process]:
    return [one for one in psutil.process_iter(["cmdline"]) if str(folder) in " ".join(one.info["cmdline"] or ())]


async def test_kill_and_stop(start: Callable[..., Any], adapter_folders: dict[str, Path], tmp_path: Path) -> None:
    folders = {"jobs": str(tmp_path / "jobs"), "adapters": str(tmp_path / "registry"), "watch_seconds": "600"}
    publish = {"do": "publish", "adapter": adapter_folders["alpha"]}

    async with start(SCRIPT, **folders) as first:
        await up(first)
        running = await queue(first.client, **publish, until=tmp_path / "go")
        waiting = await queue(first.client, **publish, until=tmp_path / "never")
        live = listen(first.client, running)
        seen = [blocks(await anext(live))[0]["event"] for _ in range(3)]
        assert seen == ["gate", "start", "step"]
        first.process.kill()
        await first.process.wait()
        (child,) = trainers(tmp_path / "jobs")
        assert json.loads((tmp_path / "jobs" / running / "job.json").read_text())["pid"] == child.pid
        await live.aclose()

    async with start(SCRIPT, **folders) as second:
        await up(second)
        assert (await job(second.client, running))["state"] == "running"
        assert (await job(second.client, waiting))["position"] == 1
        (tmp_path / "go").touch()
        rest = [blocks(block)[0] async for block in listen(second.client, running, after=3)]
        assert [one["event"] for one in rest] == ["step", "eval", "done", "end"]
        assert rest[-1]["data"]["state"] == "succeeded"
        # long before the watch looks at the folder
        assert (await second.client.get("/adapters/fresh")).json()["version"] == 1
        await stepped(second.client, waiting)
        following = listen(second.client, waiting)
        heard = [await anext(following)]
        second.process.send_signal(signal.SIGTERM)
        # a stream that follows the job does not hold the shutdown up
        assert await asyncio.wait_for(second.process.wait(), 60) == 0
        heard += [block async for block in following]
        assert "event: end" not in "".join(heard)
        assert trainers(tmp_path / "jobs") == []

    async with start(SCRIPT, **folders) as third:
        await up(third)
        stopped = await job(third.client, waiting)
        assert (stopped["state"], stopped["exit_code"]) == ("interrupted", 143)
        (tmp_path / "never").touch()
        assert (await third.client.post(f"/training/jobs/{waiting}/resume")).status_code == 202
        over = await reached(third.client, waiting, "succeeded")
        assert over["told"]["started"]["resumed_from"] == 1
        assert (await third.client.get("/adapters/fresh")).json()["version"] == 2


async def test_kill_with_nobody_left(start: Callable[..., Any], tmp_path: Path) -> None:
    """Service and trainer both die, as with the machine: the job is interrupted, not running."""
    folders = {"jobs": str(tmp_path / "jobs"), "adapters": str(tmp_path / "registry")}

    async def begin(server: Server) -> str:
        await up(server)
        identity = await queue(server.client, do="silent", until=tmp_path / "never")
        await stepped(server.client, identity)
        return identity

    async with start(SCRIPT, **folders) as first:
        identity = await begin(first)
        first.process.kill()
        await first.process.wait()
        for child in trainers(tmp_path / "jobs"):
            child.kill()
    async with start(SCRIPT, **folders) as second:
        await up(second)
        found = await job(second.client, identity)
        assert (found["state"], found["exit_code"]) == ("interrupted", None)
