"""Disks that are full or read-only: small file systems, mounted where only the server under test sees them.

A jobs folder that cannot be written at all: tests/api/test_jobs.py.
"""

import io
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from app.registry.archive import pack
from tests.api import test_process
from tests.api.conftest import ask, wav
from tests.api.test_jobs import queue, reached
from tests.api.test_process import Server, up
from tests.faults.test_damage import upload
from tests.jobs.support import STAND_IN, plan
from tests.support import tone

SCRIPT = f"from app.jobs import command; command.TRAINER = {STAND_IN!r}; {test_process.SCRIPT}"
OWN_MOUNTS = ("unshare", "--mount") if os.geteuid() == 0 else ("unshare", "--user", "--map-root-user", "--mount")


def within(mounts: str) -> tuple[str, ...]:
    """What a server's command line begins with to have these mounts to itself; they end with it."""
    return (*OWN_MOUNTS, "sh", "-ec", f'{mounts}; exec "$@"', "sh")


def small(folder: Path, kilobytes: int) -> str:
    return f"mount -t tmpfs -o size={kilobytes}k,mode=777 small {folder}"


def _may_mount() -> bool:
    try:
        return subprocess.run([*within("mount -t tmpfs small /mnt"), "true"], capture_output=True).returncode == 0
    except OSError:
        return False


pytestmark = pytest.mark.skipif(not _may_mount(), reason="this machine lets nobody mount, so no disk is full")


def seen_by(server: Server, folder: Path) -> Path:
    return Path(f"/proc/{server.process.pid}/root{folder}")


def fill(folder: Path) -> Path:
    """Take all space that is left; delete the file to give it back."""
    file = folder / "filler"
    with file.open("wb", buffering=0) as stream:
        try:
            while True:
                stream.write(bytes(4096))
        except OSError:
            return file


def refused(answer: httpx.Response, words: str = "No space left on device") -> None:
    assert (answer.status_code, answer.json()["code"]) == (507, "storage"), answer.text
    assert words in answer.json()["detail"]
    assert "he operator can free space" in answer.json()["detail"]


def packed(folder: Path) -> bytes:
    memory = io.BytesIO()
    pack(folder, memory)
    return memory.getvalue()


def files(folder: Path) -> list[str]:
    return sorted(str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file())


async def test_a_full_disk(start: Callable[..., Any], adapter_folders: dict[str, Path], tmp_path: Path) -> None:
    """Of the registry, of temporary files and of the jobs, one after the other; the old version answers throughout."""
    registry, jobs, temporary = (tmp_path / name for name in ("registry", "jobs", "tmp"))
    for folder in (registry, jobs, temporary):
        folder.mkdir()
    mounts = " && ".join([small(registry, 400), small(jobs, 400), small(temporary, 2048), f"export TMPDIR={temporary}"])
    async with start(SCRIPT, within(mounts), adapters=str(registry), jobs=str(jobs), watch_seconds="0.1") as server:
        await up(server)
        client = server.client
        registry, jobs, temporary = (seen_by(server, folder) for folder in (registry, jobs, temporary))
        await upload(client, adapter_folders["alpha"])
        said = (await ask(client, adapter="mine"))["text"]
        begun = files(registry)
        archive = packed(adapter_folders["beta"])

        async def published() -> httpx.Response:
            fields, sent = {"name": "mine", "replace": "true"}, {"file": ("beta.zip", archive)}
            return await client.post("/adapters", data=fields, files=sent)

        async def as_before() -> None:
            assert files(registry) == begun
            assert (await client.get("/adapters/mine")).json()["version"] == 1
            assert (await ask(client, adapter="mine"))["text"] == said

        # the registry: room for nothing, then for the upload but not for its copy
        filler = fill(registry)
        refused(await published())
        filler.unlink()
        size = sum(file.stat().st_size for file in adapter_folders["beta"].iterdir())
        filler = fill(registry)
        os.truncate(filler, filler.stat().st_size - size - 3 * 4096)
        refused(await published())
        filler.unlink()
        filler = fill(registry)
        job = await queue(client, name="mine", do="publish", adapter=adapter_folders["beta"])
        ended = await reached(client, job, "failed")
        assert "No space left on device" in ended["error"]
        filler.unlink()
        await as_before()

        # temporary files: bodies beyond 1 MB lie there
        begun_with = files(temporary)  # the mark of the server's own decoders
        filler = fill(temporary)
        large = {"audio": ("a.wav", wav(tone(220, 60)))}
        refused(await client.post("/generate", files=large))
        padded = {"file": ("beta.zip", archive + bytes(3 << 20))}
        refused(await client.post("/adapters", data={"name": "mine", "replace": "true"}, files=padded))
        filler.unlink()
        assert files(temporary) == begun_with
        await as_before()

        # the jobs: data sets, and a trainer that can write nothing
        job = await queue(client, do="silent", until=tmp_path / "go")
        before = files(jobs)
        filler = fill(jobs)
        sent = {"file": ("data.jsonl", plan(do="silent", padding="x" * 9000))}
        refused(await client.post("/training/jobs", data={"name": "one"}, files=sent))
        assert files(jobs) == sorted([*before, "filler"])
        (tmp_path / "go").touch()
        ended = await reached(client, job, "failed")
        assert ended["error"].endswith("The disk of the jobs folder is full.")
        filler.unlink()
        await as_before()

        answer = await published()
        assert (answer.status_code, answer.json()["version"]) == (201, 2)
        assert (await ask(client, adapter="mine"))["adapter"]["version"] == 2


async def test_a_read_only_registry(
    start: Callable[..., Any], adapter_folders: dict[str, Path], tmp_path: Path
) -> None:
    root = tmp_path / "registry"
    for name in ("mine", "yours"):
        shutil.copytree(adapter_folders["alpha"], root / name)
    shutil.copytree(adapter_folders["beta"], root / ".history" / "mine" / "1")
    (root / ".history" / "mine" / "SWITCHING").write_text("1")  # a crash before it became read-only
    mounts = f"mount --bind {root} {root} && mount -o remount,ro,bind {root}"
    async with start(within=within(mounts), adapters=str(root)) as server:
        await up(server)
        client = server.client
        await ask(client, adapter="mine")
        assert (await client.post("/adapters/mine/select")).status_code == 200
        assert (await client.post("/unload")).json()["unchanged"]
        archive = (await client.get("/adapters/mine/download")).content
        for answer in (
            await client.post("/adapters", data={"name": "new"}, files={"file": ("a.zip", archive)}),
            await client.post(
                "/adapters", data={"name": "mine", "replace": "true"}, files={"file": ("a.zip", archive)}
            ),
            await client.delete("/adapters/mine"),
            await client.post("/adapters/mine/rollback"),
        ):
            refused(answer, "Read-only file system")
        told = await client.post("/v1/unload_lora_adapter", json={"lora_name": "mine"})
        assert (told.status_code, told.json()["error"]["code"]) == (507, "storage")
        assert [one["name"] for one in (await client.get("/adapters")).json()["adapters"]] == ["mine", "yours"]
        await ask(client, adapter="mine")
