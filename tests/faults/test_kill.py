"""`kill -9` at any moment: after the next start everything is whole, and what was promised is there.

Of a service whose training job runs, with and without its trainer: tests/api/test_job_process.py. Of each step of a
publish, rollback and removal, as an exception: tests/registry/test_registry.py.
"""

import asyncio
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import pytest

from app.models.loading import spec_of
from app.registry.local import LocalRegistry
from tests.api.conftest import ask, events_of, until
from tests.api.test_process import ENDLESS, ROOT, up
from tests.faults import publisher
from tests.faults.test_damage import upload


class Lives:
    """The publisher, and the registry that it leaves behind."""

    def __init__(self, process: "subprocess.Popen[str]", model: Path, root: Path) -> None:
        self.process = process
        self._spec = spec_of(str(model))
        self._root = root

    def begin(self, step: str = "") -> int:
        assert self.process.stdin
        self.process.stdin.write(f"{step}\n")
        self.process.stdin.flush()
        return int(self.told())

    def told(self) -> str:
        assert self.process.stdout
        return self.process.stdout.readline().strip()

    def reopened(self) -> LocalRegistry:
        registry = LocalRegistry(self._root, self._spec, max_rank=64, keep_versions=3)
        registry.open()
        return registry


@pytest.fixture(scope="module")
def lives(
    model_folder: Path, adapter_folders: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Lives]:
    root = tmp_path_factory.mktemp("killed")
    folders = [adapter_folders["alpha"], adapter_folders["beta"]]  # beta makes even versions
    made = LocalRegistry(root, spec_of(str(model_folder)), max_rank=64, keep_versions=3)
    made.open()
    made.publish(folders[0], publisher.NAME)
    command = [sys.executable, "-m", "tests.faults.publisher", str(model_folder), str(root), *map(str, folders)]
    pipes = dict(stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    with subprocess.Popen(command, cwd=ROOT, **pipes) as process:
        yield Lives(process, model_folder, root)
        process.stdin.close()
        process.stdout.close()


def whole(registry: LocalRegistry, folders: dict[str, Path]) -> int:
    """The version in place, once everything on disk is as a publish leaves it."""
    assert registry.broken() == {}
    adapter = registry.get(publisher.NAME)
    kind = "alpha" if adapter.version % 2 else "beta"
    folder = registry.intact(adapter)
    weights = "adapter_model.safetensors"
    assert (folder / weights).read_bytes() == (folders[kind] / weights).read_bytes()
    assert list((registry.root / ".staging").iterdir()) == []
    assert not list((registry.root / ".history").glob("*/SWITCHING"))
    for version in registry.versions(publisher.NAME):
        if version != adapter.version:
            assert registry.adapters.check(registry.root / ".history" / publisher.NAME / str(version)).ok
    return adapter.version


@pytest.mark.parametrize("when", ["", ":after"])
@pytest.mark.parametrize("step", publisher.STEPS)
def test_killed_at_a_step_of_publishing(lives: Lives, adapter_folders: dict[str, Path], step: str, when: str) -> None:
    before = whole(lives.reopened(), adapter_folders)
    lives.begin(step + when)
    assert lives.told() == "."  # it has killed itself
    after = whole(lives.reopened(), adapter_folders)
    switched = step in ("marker", "prune") or (step, when) == ("switch", ":after")
    assert after == before + switched


def test_killed_at_any_moment_of_publishing(lives: Lives, adapter_folders: dict[str, Path]) -> None:
    drawn = random.Random(6)
    versions = [whole(lives.reopened(), adapter_folders)]
    longest, end = 0.08, time.monotonic() + 300
    while len(versions) <= 40 or versions[-1] <= versions[0] + 20:  # it was at work when it was killed
        assert time.monotonic() < end, f"{len(versions)} lives have published {versions[-1] - versions[0]} versions"
        life = lives.begin()
        time.sleep(drawn.uniform(0, longest))
        os.kill(life, signal.SIGKILL)
        assert lives.told() == "."
        versions.append(whole(lives.reopened(), adapter_folders))
        if versions[-1] == versions[-2]:  # so that a slow machine comes to publish, too
            longest *= 1.1
    assert versions == sorted(versions)


async def test_a_server_killed_amid_uploads_and_streams(
    start: Callable[..., Any], adapter_folders: dict[str, Path], tmp_path: Path
) -> None:
    folders = {"adapters": str(tmp_path / "registry"), "jobs": str(tmp_path / "jobs")}
    (tmp_path / "tmp").mkdir()
    within = ("env", f"TMPDIR={tmp_path / 'tmp'}")
    question = {"adapter": "mine", "max_new_tokens": "24"}

    async def half_an_upload() -> AsyncIterator[bytes]:
        yield b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.zip"\r\n\r\n' + bytes(3 << 20)
        await asyncio.sleep(60)

    async with start(within=within, **folders) as first:
        await up(first)
        client = first.client
        await upload(client, adapter_folders["alpha"])
        said = (await ask(client, **question))["text"]
        heard = [""] * 3
        streams = [asyncio.create_task(read(client, heard, place)) for place in range(3)]
        headers = {"content-type": "multipart/form-data; boundary=x"}
        sending = asyncio.create_task(client.post("/adapters", content=half_an_upload(), headers=headers))
        dataset = asyncio.create_task(client.post("/training/jobs", content=half_an_upload(), headers=headers))
        publishing = asyncio.create_task(publish_on(client, adapter_folders["alpha"]))
        await first.until_running(3)

        async def received() -> bool:
            return all(heard) and any((tmp_path / "registry" / ".staging").iterdir())

        await until(received)
        first.process.kill()
        await first.process.wait()
        await asyncio.gather(*streams)
        for text in heard:  # no stream pretends to have ended
            assert {kind for kind, _ in events_of(text[: text.rfind("\n\n")])} == {"token"}
        published = await publishing
        for task in (sending, dataset):
            task.cancel()
            with suppress(asyncio.CancelledError, httpx.TransportError):
                await task

    async with start(within=within, **folders) as second:
        await up(second)
        client = second.client
        told = (await client.get("/adapters/mine")).json()
        # what was confirmed is there; the one under way may have come to be
        assert told["status"] == "ready"
        assert told["version"] - published in (0, 1)
        assert list((tmp_path / "registry" / ".staging").iterdir()) == []
        # the folder of the killed server's decoders is gone; the second server marks its own
        left = [file.name for file in (tmp_path / "tmp").rglob("*") if file.is_file()]
        assert left == ["overtone-decoders"]
        assert [one for one in (tmp_path / "jobs").iterdir() if one.is_dir()] == []
        assert (await ask(client, **question))["text"] == said


async def read(client: httpx.AsyncClient, heard: list[str], place: int) -> None:
    """Keep what a stream says until it is cut off."""
    with suppress(httpx.TransportError):
        async with client.stream("POST", "/generate", data=ENDLESS) as response:
            async for part in response.aiter_text():
                heard[place] += part


async def publish_on(client: httpx.AsyncClient, folder: Path) -> int:
    """The last version that was confirmed before the server was gone."""
    version = 1
    with suppress(httpx.TransportError):
        while True:
            version = (await upload(client, folder))["version"]
    return version
