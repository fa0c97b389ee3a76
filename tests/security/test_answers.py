"""No answer tells where things lie on the server, a secret, or a stack."""

import asyncio
import errno
import re
from pathlib import Path
from typing import Any

import pytest

from app.access.keys import KeyRecord, digest, new_key, write_keys
from app.jobs import command
from app.jobs.redact import without_folders
from app.registry.base import Registry
from app.registry.disk import Store
from app.registry.folder import AdapterFolder
from app.service import Service
from app.service.adapters import TenantAdapters
from tests.api.conftest import Running, adapter_folders, audio, model_folder, running, settings, until
from tests.jobs.support import STAND_IN, plan

__all__ = ["adapter_folders", "model_folder", "running", "settings"]
SECRET = "hunter2-secret"
INSIDE = re.compile(r"Traceback|\.py\b|site-packages|/tmp/|/home/|/srv/|/work/|" + SECRET)


def angry(*_: Any, **__: Any) -> Any:
    raise RuntimeError(f"/srv/models/x.py says {SECRET}")


def full(*_: Any, **__: Any) -> Any:
    raise OSError(errno.ENOSPC, "No space left on device", f"/srv/adapters/{SECRET}")


@pytest.mark.parametrize(
    ("owner", "name", "fault"),
    [
        (TenantAdapters, "resolve", angry),
        (Service, "read_clips", angry),
        (Service, "read_clips", full),
        (Registry, "all", angry),
        (AdapterFolder, "check", full),
        (Store, "staged", full),
    ],
)
async def test_a_fault_stays_inside(
    running: Running, monkeypatch: pytest.MonkeyPatch, owner: type, name: str, fault: Any
) -> None:
    async with running() as client:
        monkeypatch.setattr(owner, name, fault)
        answers = await asyncio.gather(
            client.post("/generate", data={"adapter": "alpha"}, files=audio()),
            client.post("/compare", data={"adapters": "alpha,base"}, files=audio()),
            client.post("/adapters", data={"name": "x"}, files=[("file", ("adapter_config.json", b"{}")),
                                                                ("file", ("adapter_model.safetensors", b"x"))]),
            client.get("/adapters"),
        )  # fmt: skip
        monkeypatch.undo()
        assert any(answer.status_code >= 500 for answer in answers)
        for answer in answers:
            assert not INSIDE.search(answer.text), answer.text


async def test_keys_are_never_repeated(running: Running, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    key, identity = new_key()
    write_keys(tmp_path / "k", [KeyRecord(id=identity, name="n", sha256=digest(key), scopes=("infer",))])
    caplog.set_level("DEBUG")
    async with running(keys_file=tmp_path / "k", api_keys=(SECRET,)) as client:
        for sent in (key, SECRET, f"{SECRET}-wrong"):
            for method, path in [("GET", "/adapters"), ("POST", "/unload"), ("POST", "/generate"), ("GET", "/nowhere")]:
                answer = await client.request(method, path, headers={"Authorization": f"Bearer {sent}"})
                told = answer.text + str(answer.headers)
                assert sent not in told
                assert digest(sent) not in told
        assert SECRET not in (await client.get("/ready")).text
    assert key not in caplog.text
    assert SECRET not in caplog.text


async def test_a_crash_of_the_trainer_tells_no_folders(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "TRAINER", STAND_IN)
    async with running() as client:
        data = plan(do="publish", adapter="/srv/of/nobody/here")
        made = await client.post("/training/jobs", data={"name": "x"}, files={"file": ("d.jsonl", data)})
        path = f"/training/jobs/{made.json()['id']}"

        async def over() -> bool:
            return bool((await client.get(path)).json()["state"] == "failed")

        await until(over)
        log = (await client.get(f"{path}/log")).text
        assert "nobody" not in log
        assert "…/" in log
        for answer in (await client.get(path), await client.get(f"{path}/events")):
            assert not re.search(r"/srv/|/tmp/|/home/|Traceback", answer.text), answer.text


@pytest.mark.parametrize(
    ("said", "read"),
    [
        ("No such file: '/srv/jobs/1/data.csv'", "No such file: '…/data.csv'"),
        (
            "row 3: ../a/b.wav, https://hub.example/a/b, 3/4, and/or",
            "row 3: ../a/b.wav, https://hub.example/a/b, 3/4, and/or",
        ),
        ({"a": ["\n/a/b/c", 1], "b": None}, {"a": ["\n…/c", 1], "b": None}),
    ],
)
def test_folders_are_left_out(said: Any, read: Any) -> None:
    assert without_folders(said) == read
