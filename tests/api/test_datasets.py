"""Checking data before training on it: jobs that only check, data used again, recordings of the report."""

import io
import zipfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import soundfile

from app.jobs import command
from tests.api.conftest import Running, until, wav
from tests.jobs.support import STAND_IN, plan


@pytest.fixture(autouse=True)
def _stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "TRAINER", STAND_IN)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("datasets")


@pytest.fixture(scope="module")
async def trainer(running: Running, root: Path) -> AsyncIterator[httpx.AsyncClient]:
    async with running(dataset_roots=(root,)) as client:
        yield client


def zipped(entries: dict[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, data in entries.items():
            archive.writestr(name, data)
    return stream.getvalue()


async def over(client: httpx.AsyncClient, made: httpx.Response) -> dict[str, Any]:
    """The job once it is over."""
    assert made.status_code == 202, made.text
    identity = made.json()["id"]

    async def told() -> bool:
        return (await client.get(f"/training/jobs/{identity}")).json()["state"] not in ("queued", "running")

    await until(told)
    job: dict[str, Any] = (await client.get(f"/training/jobs/{identity}")).json()
    return job


async def checked(client: httpx.AsyncClient, entries: dict[str, bytes], **told: Any) -> dict[str, Any]:
    data = zipped({"set/rows.jsonl": plan(**({"do": "nothing"} | told)), **entries})
    form = {"name": "fresh", "check": "true"}
    return await over(client, await client.post("/training/jobs", data=form, files={"file": ("d.zip", data)}))


async def test_a_check_trains_nothing_and_its_data_is_used_again(
    trainer: httpx.AsyncClient, adapter_folders: dict[str, Path]
) -> None:
    check = await checked(trainer, {}, do="publish", adapter=adapter_folders["alpha"])
    assert (check["state"], check["options"]["check"]) == ("succeeded", True)
    assert check["told"]["estimate"] == {"steps": 3}
    assert check["told"]["adapter"] is None
    assert (await trainer.get("/adapters/fresh")).status_code == 404

    job = await over(trainer, await trainer.post("/training/jobs", json={"name": "fresh", "from_job": check["id"]}))
    assert (job["state"], job["dataset"]) == ("succeeded", "data/set/rows.jsonl")
    # the data is the new job's own: the old one may go
    gone = await trainer.delete(f"/training/jobs/{check['id']}", params={"purge": "true"})
    assert gone.status_code == 200
    again = await over(trainer, await trainer.post("/training/jobs", json={"name": "fresh", "from_job": job["id"]}))
    assert again["told"]["adapter"] == {"name": "fresh", "version": 2}


@pytest.mark.parametrize("field", ["dry_run", "check"])
async def test_a_dry_run_by_both_of_its_names(trainer: httpx.AsyncClient, root: Path, field: str) -> None:
    """`check` is the older one; a value of false is no dry run."""
    data = root / f"{field}.jsonl"
    data.write_bytes(plan(do="nothing"))
    wanted = {"name": "fresh", "dataset": str(data)}
    for value in (True, False):
        job = await over(trainer, await trainer.post("/training/jobs", json=wanted | {field: value}))
        assert (job["options"]["check"], job["told"]["estimate"]) == (value, {"steps": 3} if value else None)
    data.unlink()  # other tests list the folder


async def test_a_job_takes_its_data_from_one_place(trainer: httpx.AsyncClient, root: Path) -> None:
    unknown = await trainer.post("/training/jobs", json={"name": "x", "from_job": "20260101-000000-00000000"})
    assert unknown.status_code == 404
    for body in ({"name": "x"}, {"name": "x", "from_job": "a", "dataset": "b"}):
        refused = await trainer.post("/training/jobs", json=body)
        assert refused.status_code == 422
        assert "one of `dataset`, `from_job` and `from_feedback`" in refused.json()["detail"]


async def test_data_sets_on_the_server_are_listed(trainer: httpx.AsyncClient, root: Path) -> None:
    (root / "a" / "b").mkdir(parents=True)
    (root / "a" / "b" / "rows.jsonl").write_bytes(plan(do="nothing"))
    (root / "table.csv").write_text("audio,text\n")
    (root / "other.txt").write_text("no")
    (root / "split").mkdir()
    for split in ("train", "test"):
        (root / "split" / f"{split}.csv").write_text("audio,text\n")
    found = (await trainer.get("/training/datasets")).json()["datasets"]
    assert [one["path"] for one in found] == [str(root / name) for name in ("a/b/rows.jsonl", "split", "table.csv")]
    assert [one["bytes"] for one in found][1:] == [None, 11]
    job = await over(
        trainer, await trainer.post("/training/jobs", json={"name": "x", "dataset": found[0]["path"], "check": True})
    )
    shared = await trainer.post("/training/jobs", json={"name": "x", "from_job": job["id"], "check": True})
    assert (await over(trainer, shared))["dataset"] == found[0]["path"]


async def test_recordings_that_the_report_names_are_heard(trainer: httpx.AsyncClient) -> None:
    flac = wav(np.zeros(8000, np.float32), 8000, "FLAC")
    entries = {"set/a.flac": flac, "set/b.wav": b"no audio", "set/c.flac": flac, "outside.flac": flac}
    named = ["a.flac", "b.wav", "../outside.flac", "/etc/passwd", "missing.wav"]
    job = await checked(trainer, entries, silent=named)

    async def hear(name: str) -> httpx.Response:
        return await trainer.get(f"/training/jobs/{job['id']}/recording", params={"name": name})

    heard = await hear("a.flac")
    assert heard.headers["content-type"] == "audio/wav"
    samples, rate = soundfile.read(io.BytesIO(heard.content))
    assert (len(samples), rate) == (16_000, 16_000)
    broken = await hear("b.wav")
    assert (broken.status_code, broken.json()["code"]) == (415, "not_audio")
    for name in ("c.flac", "../outside.flac", "/etc/passwd", "missing.wav", "\0"):
        refused = await hear(name)
        assert (refused.status_code, refused.json()["code"]) == (404, "not_found"), name
    empty = await hear("")
    assert (empty.status_code, empty.json()["fields"]) == (422, ["name"])
    assert "name is empty" in empty.json()["detail"]
