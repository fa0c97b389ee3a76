"""Training jobs over HTTP, with a stand-in trainer as a real process."""

import asyncio
import errno
import io
import json
import sys
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


async def test_two_wait_their_turn_and_can_be_cancelled(trainer: httpx.AsyncClient) -> None:
    first = await queue(trainer, do="silent", until="/nowhere/at/all")
    second = await queue(trainer, do="silent", until="/nowhere/at/all")
    await stepped(trainer, first)
    assert ((await job(trainer, first))["position"], (await job(trainer, second))["position"]) == (None, 1)
    listed = (await trainer.get("/training/jobs")).json()["jobs"]
    assert [entry["id"] for entry in listed[:2]] == [second, first]
    running = await trainer.delete(f"/training/jobs/{first}", params={"purge": True})
    assert (running.status_code, running.json()["code"]) == (409, "conflict")
    assert (await trainer.delete(f"/training/jobs/{first}")).json()["stopping"]
    over = await reached(trainer, first, "cancelled")
    assert (over["exit_code"], over["stopping"]) == (143, False)
    await stepped(trainer, second)
    third = await queue(trainer, do="silent", until="/nowhere/at/all")
    assert (await trainer.delete(f"/training/jobs/{third}")).json()["state"] == "cancelled"
    resumed = await trainer.post(f"/training/jobs/{first}/resume")
    assert (resumed.status_code, resumed.json()["state"], resumed.json()["position"]) == (202, "queued", 1)
    for identity in (first, second):
        await trainer.delete(f"/training/jobs/{identity}")
        await reached(trainer, identity, "cancelled")
    for identity in (first, second, third):
        assert (await trainer.delete(f"/training/jobs/{identity}", params={"purge": True})).status_code == 200
        assert (await trainer.get(f"/training/jobs/{identity}")).json()["code"] == "not_found"


@pytest.mark.parametrize(("do", "state", "words"), [("crash", "failed", "RuntimeError"), ("refuse", "refused", "data")])
async def test_bad_ends(trainer: httpx.AsyncClient, do: str, state: str, words: str) -> None:
    over = await reached(trainer, await queue(trainer, do=do), state)
    assert words in over["error"]
    log = (await trainer.get(f"/training/jobs/{over['id']}/log", params={"tail": 1})).text
    assert log.count("\n") == 1
    again = await trainer.post(f"/training/jobs/{over['id']}/resume")
    assert (again.status_code, again.json()["code"]) == (409, "conflict")


async def test_events_are_replayed_followed_and_resumed(trainer: httpx.AsyncClient, tmp_path: Path) -> None:
    identity = await queue(trainer, do="fail", steps=2, until=tmp_path / "go")
    url = f"/training/jobs/{identity}/events"
    await stepped(trainer, identity)
    following = asyncio.create_task(trainer.get(url))
    await asyncio.sleep(0.3)
    assert not following.done()
    (tmp_path / "go").touch()
    response = await following
    assert response.headers["content-type"].startswith("text/event-stream")
    followed = blocks(response.text)
    assert [one["event"] for one in followed] == ["gate", "start", "step", "step", "eval", "error", "end"]
    assert [one.get("id") for one in followed] == ["1", "2", "3", "4", "5", "6", None]
    assert followed[-1]["data"]["state"] == "failed"
    assert blocks((await trainer.get(url)).text) == followed
    assert blocks((await trainer.get(url, headers={"Last-Event-ID": "4"})).text) == followed[4:]
    wrong = await trainer.get(url, headers={"Last-Event-ID": "x"})
    assert wrong.status_code == 422


LINK = tarfile.TarInfo("audio/a.wav")
LINK.type, LINK.linkname = tarfile.SYMTYPE, "/etc/passwd"
ROWS = {"rows.jsonl": b"{}\n"}
ARCHIVES = {
    "escape in a zip": (zipped(ROWS | {"../x.wav": b"x"}), 422, "leaves its folder"),
    "escape in a tar": (tarred(ROWS | {"a/../../x.wav": b"x"}), 422, "leaves its folder"),
    "absolute": (tarred(ROWS | {"/tmp/x.wav": b"x"}), 422, "leaves its folder"),
    "link": (tarred(ROWS, LINK), 422, "link or device"),
    "bomb": (zipped(ROWS | {"a.wav": bytes(8 << 20)}), 413, "OVERTONE_MAX_DATASET_MB"),
    "bomb in a tar": (tarred(ROWS | {"a.wav": bytes(8 << 20)}), 413, "OVERTONE_MAX_DATASET_MB"),
    "no archive": (b"hello", 422, "no readable .zip or .tar.gz"),
    "no rows": (zipped({"a.wav": b"x"}), 422, "no data file (.jsonl"),
    "two sets": (zipped({"a.csv": b"x", "b.csv": b"x"}), 422, "several data files (a.csv, b.csv)"),
    "file and folder": (zipped(ROWS | {"a": b"x", "a/b.wav": b"x"}), 422, "twice"),
    "long name": (zipped(ROWS | {"x" * 300: b"x"}), 422, "too long"),
}


@pytest.mark.parametrize("name", ARCHIVES)
async def test_bad_archives_leave_nothing_behind(trainer: httpx.AsyncClient, name: str) -> None:
    store = trainer.app.state.overtone.jobs.store  # type: ignore[attr-defined]
    before = sorted(store.root.iterdir())
    data, status, words = ARCHIVES[name]
    refused = await post(trainer, data, "data.zip")
    assert refused.status_code == status, refused.text
    assert words in refused.json()["detail"]
    assert sorted(store.root.iterdir()) == before


async def test_too_many_files(trainer: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.api.schemas.jobs.MAX_FILES", 3)
    refused = await post(trainer, zipped(ROWS | {f"{index}.wav": b"x" for index in range(3)}), "data.zip")
    assert (refused.status_code, "more than 3 files" in refused.json()["detail"]) == (413, True)


async def test_a_body_beyond_the_limit(trainer: httpx.AsyncClient) -> None:
    refused = await post(trainer, bytes(5 << 20), "rows.csv")
    assert (refused.status_code, refused.json()["code"]) == (413, "too_large")
    assert "OVERTONE_MAX_DATASET_MB" in refused.json()["detail"]


@pytest.mark.parametrize(
    ("fields", "status", "words"),
    [
        ({"epoch": "3"}, 422, "did you mean 'epochs'?"),
        ({"lr": "3"}, 422, "did you mean 'learning_rate'?"),
        ({"dataset": "/etc"}, 422, "Unknown field 'dataset'"),
        ({"name": "../x"}, 422, "cannot name an adapter"),
        ({"name": "base"}, 422, "cannot name an adapter"),
        ({"method": "magic"}, 422, "method:"),
        ({"epochs": "0"}, 422, "epochs:"),
        ({"learning_rate": "nan"}, 422, "learning_rate:"),
        ({"preset": "--registry"}, 422, "preset:"),
        ({"allow": "good,-x"}, 422, "allow.1:"),
    ],
)
async def test_bad_fields(trainer: httpx.AsyncClient, fields: dict[str, str], status: int, words: str) -> None:
    refused = await post(trainer, plan(do="silent"), **fields)
    assert refused.status_code == status, refused.text
    assert words in refused.json()["detail"], refused.text


async def test_bad_bodies(trainer: httpx.AsyncClient) -> None:
    two = [("file", ("a.csv", b"x")), ("file", ("b.csv", b"x"))]
    twice = await trainer.post("/training/jobs", data={"name": "fresh"}, files=two)
    text = await trainer.post("/training/jobs", data={"name": "x", "file": "hello"}, files={"file": ("", b"")})
    none = await trainer.post("/training/jobs", files={"file": ("a.csv", b"x")})
    plain = await trainer.post("/training/jobs", content=b"hello")
    array = await trainer.post("/training/jobs", json=["name"])
    for response in (twice, text, none, plain):
        assert (response.status_code, response.json()["code"]) == (422, "bad_request"), response.text
    assert (array.status_code, array.json()["code"]) == (400, "malformed_body")


async def test_a_data_set_on_the_server(trainer: httpx.AsyncClient, root: Path) -> None:
    (root / "set").mkdir()
    (root / "set" / "rows.jsonl").write_bytes(plan(do="refuse"))
    wanted = {"name": "fresh", "dataset": str(root / "set"), "allow": ["some_code"]}
    made = await trainer.post("/training/jobs", json=wanted)
    assert made.status_code == 202, made.text
    assert made.json()["dataset"] == str(root / "set" / "rows.jsonl")
    await reached(trainer, made.json()["id"], "refused")
    for dataset, status in (("/etc", 403), (f"{root}/../x.csv", 403), (str(root / "nothing"), 422)):
        refused = await trainer.post("/training/jobs", json=wanted | {"dataset": dataset})
        assert refused.status_code == status, refused.text
    unknown = await trainer.post("/training/jobs", json=wanted | {"path": "x"})
    assert "did you mean 'dataset'?" in unknown.json()["detail"]


async def test_a_full_disk_is_told(trainer: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    store = trainer.app.state.overtone.jobs.store  # type: ignore[attr-defined]
    before = sorted(store.root.iterdir())
    for where, data, filename in [
        ("app.registry.archive_reader.copy_stream", zipped(ROWS), "data.zip"),
        ("app.jobs.dataset.copy_stream", b"{}\n", "rows.jsonl"),
        ("os.fsync", b"{}\n", "rows.jsonl"),
    ]:
        with monkeypatch.context() as patch:
            patch.setattr(where, full)
            refused = await post(trainer, data, filename)
        assert (refused.status_code, refused.json()["code"]) == (507, "storage"), refused.text
        assert "No space left on device" in refused.json()["detail"]
    assert sorted(store.root.iterdir()) == before


async def test_no_room_on_the_device(trainer: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.api.dependencies.shortage_on", lambda *_: "Training needs about 27 GB.")
    refused = await post(trainer, plan(do="silent"))
    assert (refused.status_code, refused.json()["code"]) == (409, "conflict")
    assert "27 GB" in refused.json()["detail"]


async def test_without_a_jobs_folder_everything_else_works(running: Running, tmp_path: Path) -> None:
    (tmp_path / "jobs").write_text("a file")
    async with running(jobs=tmp_path / "jobs") as client:
        told = await client.get("/training/jobs")
        assert (told.status_code, told.json()["code"]) == (503, "not_ready")
        assert "could not be written" in told.json()["detail"]
        await ask(client)


async def test_the_real_trainer_refuses_what_is_no_data_set(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "TRAINER", (sys.executable, "-m", "training", "train"))
    async with running() as client:
        made = await post(client, b'{"audio": "missing.wav", "text": "words"}\n', "rows.jsonl", name="real")
        over = await reached(client, made.json()["id"], "refused")
        assert over["exit_code"] == 2
        assert over["error"]
