import asyncio
import io
import random
import shutil
import tarfile
import zipfile
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from app.models.loading import LoadedModel
from tests.api.conftest import Running, ask, audio, busy, until
from tests.api.test_bad_input import contents, zipped
from tests.support import make_adapter


@pytest.fixture
async def fresh(running: Running, tmp_path: Path) -> AsyncIterator[httpx.AsyncClient]:
    """An app that a test may change."""
    async with running(max_resident=2, adapter_roots=(tmp_path,)) as client:
        yield client


async def test_list_and_one(client: httpx.AsyncClient) -> None:
    await ask(client, adapter="alpha")
    listed = (await client.get("/adapters")).json()
    assert listed["active"] is None
    alpha, beta = listed["adapters"]
    assert (alpha["name"], alpha["status"], alpha["version"], alpha["versions"]) == ("alpha", "ready", 1, [1])
    assert alpha["residency"] == "gpu"
    assert beta["name"] == "beta"
    one = (await client.get("/adapters/alpha")).json()
    assert one["manifest"]["name"] == "alpha"
    assert one["report"]["problems"] == []
    assert one["report"]["rank"] == 4
    before = one["usage"]["requests"]
    await ask(client, adapter="alpha")
    assert (await client.get("/adapters/alpha")).json()["usage"]["requests"] == before + 1


async def test_upload_replace_rollback_delete(fresh: httpx.AsyncClient, adapter_folders: dict[str, Path]) -> None:
    alpha, beta = await ask(fresh, adapter="alpha"), await ask(fresh, adapter="beta")

    files = {"file": ("new.zip", zipped(contents(adapter_folders["alpha"])))}
    made = await fresh.post("/adapters", data={"name": "new"}, files=files)
    assert made.status_code == 201
    assert made.json()["version"] == 1
    assert made.json()["report"]["parameters"] > 0
    assert (await ask(fresh, adapter="new"))["text"] == alpha["text"]

    taken = await fresh.post("/adapters", data={"name": "new"}, files=files)
    assert (taken.status_code, taken.json()["code"]) == (409, "conflict")

    tar = io.BytesIO()
    with tarfile.open(fileobj=tar, mode="w:gz") as archive:
        archive.add(adapter_folders["beta"], "beta")
    files = {"file": ("new.tar.gz", tar.getvalue())}
    second = await fresh.post("/adapters", data={"name": "new", "replace": "true"}, files=files)
    assert (second.status_code, second.json()["version"], second.json()["versions"]) == (201, 2, [1, 2])
    answer = await ask(fresh, adapter="new")
    assert answer["adapter"] == {"name": "new", "version": 2}
    assert answer["text"] == beta["text"]
    await versions_are_asked_by_number(fresh, alpha["text"], beta["text"])

    back = await fresh.post("/adapters/new/rollback")
    assert back.json()["version"] == 1
    assert (await ask(fresh, adapter="new"))["text"] == alpha["text"]
    again = await fresh.post("/adapters/new/rollback", json={"version": 2})
    assert again.json()["version"] == 2
    assert (await fresh.post("/adapters/new/rollback", json={"version": 9})).status_code == 404

    await fresh.post("/adapters/new/select")
    removed = await fresh.delete("/adapters/new")
    assert removed.json() == {"removed": "new", "active": None, "versions": [1, 2]}
    gone = await fresh.get("/adapters/new")
    assert (gone.status_code, "rolling it back makes version 2 current again" in gone.json()["detail"]) == (404, True)
    assert (await ask(fresh))["adapter"]["name"] == "base"

    assert {"name": "new", "versions": [1, 2]} in (await fresh.get("/adapters")).json()["removed"]
    restored = await fresh.post("/adapters/new/rollback")
    assert (restored.status_code, restored.json()["version"]) == (200, 2)
    assert (await ask(fresh, adapter="new"))["text"] == beta["text"]
    assert "new" not in [entry["name"] for entry in (await fresh.get("/adapters")).json()["removed"]]
    await fresh.delete("/adapters/new")


async def versions_are_asked_by_number(client: httpx.AsyncClient, first: str, second: str) -> None:
    """`new@1` is in the history, `new@2` is current."""
    fields = {"max_new_tokens": "8", "adapters": "new@1,new@2,new,new@1:0.5,new@3"}
    compared = (await client.post("/compare", data=fields, files=audio())).json()["answers"]
    assert [one["adapter"].get("version") for one in compared] == [1, 2, 2, None, None]
    assert [one["text"] for one in compared[:3]] == [first, second, second]
    assert compared[3]["adapter"]["mix"] == [{"name": "new", "version": 1, "weight": 0.5}]
    assert compared[4]["error"]["code"] == "adapter_not_found"
    assert "new@2" in compared[4]["error"]["detail"]
    assert (await client.post("/adapters/new@1/select")).status_code == 422
    for wrong in ("new@", "new@one", "new@-1", "new@1@2", "new@1,new@2", f"new@{'9' * 5000}", "nobody@1"):
        refused = await client.post("/generate", data={"prompt": "x", "adapter": wrong[:2000]})
        assert refused.status_code in (404, 422), wrong


async def test_two_files_and_a_folder(
    fresh: httpx.AsyncClient, adapter_folders: dict[str, Path], tmp_path: Path
) -> None:
    pair = [("file", (name, data)) for name, data in contents(adapter_folders["alpha"]).items() if "adapter" in name]
    assert (await fresh.post("/adapters", data={"name": "pair"}, files=pair)).status_code == 201
    shutil.copytree(adapter_folders["alpha"], tmp_path / "somewhere")
    source = {"name": "folder", "source": str(tmp_path / "somewhere")}
    assert (await fresh.post("/adapters", json=source)).status_code == 201
    texts = {(await ask(fresh, adapter=name))["text"] for name in ("alpha", "pair", "folder")}
    assert len(texts) == 1


async def test_an_adapter_may_be_larger_than_a_recording(
    client: httpx.AsyncClient, adapter_folders: dict[str, Path]
) -> None:
    """The client's app takes recordings of 4 MB and adapters of 8."""
    large = contents(adapter_folders["alpha"]) | {"README.md": random.Random(0).randbytes(5 << 20)}
    added = await client.post("/adapters", data={"name": "large"}, files={"file": ("a.zip", zipped(large))})
    assert added.status_code == 201, added.text
    assert (await client.delete("/adapters/large")).status_code == 200
    files = {"file": ("a.zip", bytes(9 << 20))}
    refused = await client.post("/adapters", data={"name": "larger"}, files=files)
    assert (refused.status_code, "OVERTONE_MAX_ADAPTER_MB" in refused.json()["detail"]) == (413, True)


async def test_download_can_be_uploaded_again(fresh: httpx.AsyncClient) -> None:
    response = await fresh.get("/adapters/alpha/download")
    assert response.headers["content-type"] == "application/zip"
    assert 'filename="alpha-1.zip"' in response.headers["content-disposition"]
    names = zipfile.ZipFile(io.BytesIO(response.content)).namelist()
    assert {"adapter_config.json", "adapter_model.safetensors"} <= set(names)
    files = {"file": ("again.zip", response.content)}
    made = await fresh.post("/adapters", data={"name": "again"}, files=files)
    assert made.status_code == 201, made.text


async def test_select_and_unload(fresh: httpx.AsyncClient) -> None:
    start = (await fresh.get("/ready")).json()["fingerprint"]
    base, alpha = await ask(fresh), await ask(fresh, adapter="alpha")
    assert (await fresh.post("/adapters/alpha/select")).json() == {"active": "alpha"}
    assert (await ask(fresh))["text"] == alpha["text"]
    assert (await ask(fresh, adapter="base"))["text"] == base["text"]
    assert (await fresh.get("/adapters/alpha")).json()["active"]
    unloaded = (await fresh.post("/unload")).json()
    assert unloaded == {
        "active": None,
        "freed": ["alpha@1"],
        "fingerprint": start,
        "fingerprint_at_start": start,
        "unchanged": True,
    }
    assert (await fresh.get("/adapters/alpha")).json()["residency"] == "host"
    assert (await ask(fresh))["text"] == base["text"]
    assert (await fresh.post("/adapters/alpha:0.5,beta:0.5/select")).status_code == 200
    assert (await ask(fresh))["adapter"]["name"] == "alpha:0.5,beta:0.5"
    assert (await fresh.post("/unload", json={"adapter": "beta"})).json()["freed"] == ["beta@1"]
    assert (await fresh.get("/ready")).json()["active"] is None
    assert (await fresh.post("/unload", json={"adapter": "nobody"})).status_code == 404
    assert (await fresh.post("/adapters/nobody/select")).status_code == 404
    assert (await fresh.post("/adapters/base/select")).json() == {"active": None}


async def test_unload_while_streaming(fresh: httpx.AsyncClient) -> None:
    fields = {"prompt": "go on", "adapter": "alpha", "max_new_tokens": "150"}
    quiet = (await fresh.post("/generate", data=fields)).json()["text"]
    streaming = asyncio.create_task(fresh.post("/generate", data=fields))
    await busy(fresh)
    unloaded = (await fresh.post("/unload")).json()
    assert unloaded["unchanged"]
    await fresh.delete("/adapters/alpha")
    assert (await streaming).json()["text"] == quiet


async def test_pins(fresh: httpx.AsyncClient, adapter_folders: dict[str, Path]) -> None:
    assert (await fresh.post("/adapters/alpha/pin")).json()["pinned"]
    refused = await fresh.post("/adapters/beta/pin")  # two slots: one must stay free
    assert (refused.status_code, refused.json()["code"]) == (409, "conflict")
    await ask(fresh, adapter="alpha")
    await ask(fresh, adapter="beta")
    files = {"file": ("c.zip", zipped(contents(adapter_folders["beta"])))}
    await fresh.post("/adapters", data={"name": "third"}, files=files)
    await ask(fresh, adapter="third")
    where = {entry["name"]: entry["residency"] for entry in (await fresh.get("/adapters")).json()["adapters"]}
    assert where == {"alpha": "gpu", "beta": "host", "third": "gpu"}
    assert not (await fresh.post("/adapters/alpha/pin", json={"pinned": False})).json()["pinned"]
    assert (await fresh.post("/adapters/beta/pin")).status_code == 200


async def test_folder_is_watched(fresh: httpx.AsyncClient, loaded: LoadedModel, tmp_path: Path) -> None:
    """A good one appears, a broken one tells why, and a watch that met an error goes on."""
    registry = fresh.app.state.overtone.service.registry  # type: ignore[attr-defined]
    real, failed = registry.refresh, []

    def failing() -> list[str]:
        registry.refresh = real
        failed.append(True)
        raise OSError("the disk is away for a moment")

    registry.refresh = failing
    shutil.copytree(make_adapter(loaded, tmp_path / "made", 7), registry.root / "dropped")
    (registry.root / "broken").mkdir()
    (registry.root / "broken" / "adapter_config.json").write_text("{}")

    async def both_seen() -> bool:
        return len((await fresh.get("/adapters")).json()["adapters"]) == 4

    await until(both_seen)
    assert failed
    assert (await ask(fresh, adapter="dropped"))["adapter"]["version"] == 1
    broken = (await fresh.get("/adapters/broken")).json()
    assert broken["status"] == "broken"
    assert broken["problems"]
    asked = await fresh.post("/generate", data={"prompt": "x", "adapter": "broken"})
    assert asked.json()["code"] == "adapter_rejected"
    assert (await fresh.delete("/adapters/broken")).status_code == 200


async def test_an_active_adapter_that_is_being_removed_leaves_the_base(fresh: httpx.AsyncClient) -> None:
    """Between the removal and the end of the selection lies a moment."""
    service = fresh._transport.app.state.overtone.service  # type: ignore[attr-defined]
    service.adapters.select("alpha")
    service.registry.remove("alpha")
    answer = await fresh.post("/generate", data={"prompt": "a", "max_new_tokens": "2"})
    assert answer.status_code == 200
    assert answer.json()["adapter"]["name"] == "base"
