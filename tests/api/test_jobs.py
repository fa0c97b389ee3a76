"""Training jobs over HTTP, with a stand-in trainer as a real process."""

import io
import json
import tarfile
import zipfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from app.jobs import command
from tests.api.conftest import Running, ask, until
from tests.jobs.support import STAND_IN, plan


@pytest.fixture(autouse=True)
def _stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "TRAINER", STAND_IN)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that `dataset` may name."""
    return tmp_path_factory.mktemp("datasets")


@pytest.fixture(scope="module")
async def trainer(running: Running, root: Path) -> AsyncIterator[httpx.AsyncClient]:
    async with running(dataset_roots=(root,), max_dataset_mb=4) as client:
        yield client


def zipped(entries: dict[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in entries.items():
            archive.writestr(name, data)
    return stream.getvalue()


def tarred(entries: dict[str, bytes], *extra: tarfile.TarInfo) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as archive:
        for name, data in entries.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
        for info in extra:
            archive.addfile(info)
    return stream.getvalue()


async def post(client: httpx.AsyncClient, data: bytes, filename: str = "d.jsonl", **fields: str) -> httpx.Response:
    return await client.post("/training/jobs", data={"name": "fresh"} | fields, files={"file": (filename, data)})


async def queue(client: httpx.AsyncClient, **told: Any) -> str:
    made = await post(client, plan(**told))
    assert made.status_code == 202, made.text
    identity: str = made.json()["id"]
    return identity


async def job(client: httpx.AsyncClient, identity: str) -> dict[str, Any]:
    found: dict[str, Any] = (await client.get(f"/training/jobs/{identity}")).json()
    return found


async def reached(client: httpx.AsyncClient, identity: str, state: str) -> dict[str, Any]:
    async def told() -> bool:
        now = (await job(client, identity))["state"]
        assert now in (state, "queued", "running"), await job(client, identity)
        return bool(now == state)

    await until(told)
    return await job(client, identity)


async def stepped(client: httpx.AsyncClient, identity: str) -> None:
    async def told() -> bool:
        return (await job(client, identity))["told"]["progress"] is not None

    await until(told)


def blocks(text: str) -> list[dict[str, Any]]:
    """Server-sent events as dicts of their fields."""
    found = []
    for block in text.strip().split("\n\n"):
        if not block.startswith(":"):
            fields = dict(line.split(": ", 1) for line in block.split("\n"))
            found.append(fields | {"data": json.loads(fields["data"])})
    return found


async def test_an_upload_becomes_an_adapter_that_answers(
    trainer: httpx.AsyncClient, adapter_folders: dict[str, Path]
) -> None:
    told = plan(do="publish", adapter=adapter_folders["alpha"], steps=3)
    data = zipped({"set/rows.jsonl": told, "set/audio/a.wav": b"RIFF", "__MACOSX/._rows.jsonl": b"x"})
    fields = {"name": "trained", "epochs": "2", "learning_rate": "1e-3", "seed": "7", "allow": "short_rows,few"}
    made = await post(trainer, data, "data.zip", **fields)
    assert made.status_code == 202, made.text
    assert made.json()["dataset"] == "data/set/rows.jsonl"
    over = await reached(trainer, made.json()["id"], "succeeded")
    assert over["exit_code"] == 0
    assert over["options"]["allow"] == ["short_rows", "few"]
    assert over["told"]["adapter"] == {"name": "trained", "version": 1}
    assert over["told"]["metrics"]["after"] == {"wer": 0.1}
    assert over["told"]["gate"] == {"ok": True, "report": {"rows": 1}}
    assert over["told"]["progress"]["step"] == 3
    assert over["created"] <= over["started"] <= over["ended"]
    assert (await ask(trainer, adapter="trained"))["text"] == (await ask(trainer, adapter="alpha"))["text"]
    log = (await trainer.get(f"/training/jobs/{over['id']}/log", params={"tail": 5})).text
    for words in ("'--epochs', '2'", "'--set', 'learning_rate=0.001'", "'--set', 'seed=7'", "'short_rows,few'"):
        assert words in log
    assert "niceness 10" in log
    assert 'overtone_training_jobs{state="succeeded"} 1.0' in (await trainer.get("/metrics")).text
