"""Files of an adapter change on disk behind the registry's back: told, never served, and brought back."""

import os
from pathlib import Path

import httpx
import pytest

from app.access.caller import Caller
from app.errors import AdapterRejected
from app.models.head import read_head
from app.registry.adapter_files import manifest
from app.registry.adapter_files.weights import read_weights
from app.registry.tenant_view import TenantRegistry
from tests.api.conftest import Running, ask, audio, until
from tests.support import make_head

WEIGHTS = "adapter_model.safetensors"


def flip(file: Path, quietly: bool = True) -> None:
    """Change one bit in the middle; ``quietly``: as a disk does, which leaves size and time as they were."""
    before = file.stat()
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    if quietly:
        os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))


async def upload(client: httpx.AsyncClient, folder: Path, name: str = "mine", replace: bool = True) -> dict:
    files = [("file", (one, (folder / one).read_bytes())) for one in ("adapter_config.json", WEIGHTS)]
    answer = await client.post("/adapters", data={"name": name, "replace": str(replace).lower()}, files=files)
    assert answer.status_code == 201, answer.text
    return answer.json()


async def broken(client: httpx.AsyncClient, name: str = "mine") -> bool:
    return (await client.get(f"/adapters/{name}")).json()["status"] == "broken"


async def test_damage_is_found_before_the_weights_are_used(running: Running, adapter_folders: dict[str, Path]) -> None:
    async with running() as client:
        root = client.app.state.overtone.settings.adapters
        for kind in ("alpha", "beta"):
            await upload(client, adapter_folders[kind])
        said = (await ask(client, adapter="mine"))["text"]
        flip(root / "mine" / WEIGHTS)
        # what lies in memory is whole and answers on
        assert (await ask(client, adapter="mine"))["text"] == said
        await client.post("/unload")
        client.app.state.overtone.service.engine.lora_manager.host.clear()

        asking = {"prompt": "go", "adapter": "mine"}
        refused = await client.post("/generate", data=asking, files=audio())
        assert (refused.status_code, refused.json()["code"]) == (422, "adapter_rejected")
        assert refused.json()["problems"] == [f"{WEIGHTS} is damaged: its sha256 differs from the manifest's"]
        assert "roll it back" in refused.json()["detail"]
        told = (await client.get("/adapters/mine")).json()
        assert (told["status"], told["versions"]) == ("broken", [1])
        assert "damaged" in told["problems"][0]
        assert (await client.get("/adapters/mine/download")).status_code == 422
        await ask(client, adapter="alpha")

        # the version before
        assert (await client.post("/adapters/mine/rollback")).json()["version"] == 1
        await ask(client, adapter="mine")
        # a damaged version in the history is passed over, and told when it is named
        await upload(client, adapter_folders["beta"])
        flip(root / "mine" / WEIGHTS, quietly=False)
        await until(lambda: broken(client))
        assert (await client.post("/adapters/mine/rollback")).json()["version"] == 1
        damaged = max((await client.get("/adapters/mine")).json()["versions"])
        again = await client.post("/adapters/mine/rollback", json={"version": damaged})
        assert (again.status_code, again.json()["code"]) == (422, "adapter_rejected")
        # a new upload
        flip(root / "mine" / WEIGHTS, quietly=False)
        await until(lambda: broken(client))
        await upload(client, adapter_folders["beta"])
        assert (await ask(client, adapter="mine"))["text"] == said
        assert not await broken(client)


async def test_files_that_go_on_changing_back_are_taken_up_again(running: Running, adapter_folders: dict) -> None:
    """Right bytes from a backup are served again by themselves; a file that is gone is told."""
    async with running() as client:
        file = client.app.state.overtone.settings.adapters / "mine" / WEIGHTS
        await upload(client, adapter_folders["alpha"])
        whole = file.read_bytes()
        file.unlink()
        await until(lambda: broken(client))
        assert "missing" in (await client.get("/adapters/mine")).json()["problems"][0]
        file.write_bytes(whole)
        assert (await client.get("/ready")).json()["broken_adapters"] in (0, 1)

        async def served() -> bool:
            return not await broken(client)

        await until(served)
        await ask(client, adapter="mine")


@pytest.mark.parametrize("kind", ["qv", "dora", "head"])
def test_every_way_of_reading_checks(registry, folders, tmp_path: Path, kind: str) -> None:
    adapter = registry.publish(make_head(tmp_path / "head") if kind == "head" else folders[kind], "a")
    look = {"qv": read_weights, "dora": Path, "head": read_head}[kind]
    registry.read_with(adapter, look)
    flip(registry.root / "a" / ("head.safetensors" if kind == "head" else WEIGHTS))
    assert registry.refresh() == []  # nothing that a look could see
    with pytest.raises(AdapterRejected, match="a@1 is damaged on disk"):
        registry.read_with(adapter, look)
    assert registry.names() == []
    assert "sha256" in registry.broken()["a"][0]


@pytest.mark.parametrize("name", [WEIGHTS, "adapter_config.json"])
def test_damage_that_keeps_a_file_from_being_read_is_told_as_damage(registry, folders, name: str) -> None:
    registry.publish(folders["qv"], "a")
    file = registry.root / "a" / name
    before, data = file.stat(), file.read_bytes()
    file.write_bytes(b"\xff" * 8 + data[8:])  # neither a header of safetensors nor JSON
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    with pytest.raises(AdapterRejected, match="a@1 is damaged on disk"):
        registry.read_with(registry.get("a"), read_weights)


def test_a_damaged_past_version_leaves_the_current_one_alone(registry, folders) -> None:
    old = registry.publish(folders["qv"], "a")
    registry.publish(folders["qv2"], "a", replace=True)
    flip(registry.root / ".history" / "a" / "1" / WEIGHTS)
    with pytest.raises(AdapterRejected):
        registry.read_with(old, read_weights)
    assert registry.get("a").version == 2
    with pytest.raises(AdapterRejected, match="does not fit any more"):
        registry.rollback("a")


def test_a_tenant_rolls_its_damaged_adapter_back(registry, folders) -> None:
    acme = TenantRegistry(registry, Caller("k", tenant="acme"))
    for kind in ("qv", "qv2"):
        acme.publish(folders[kind], "a", replace=True)
    flip(registry.root / "a" / WEIGHTS)
    with pytest.raises(AdapterRejected):
        registry.read_with(registry.get("a"), read_weights)
    assert acme.versions("a") == [1]
    assert acme.rollback("a").version == 1
    assert (registry.get("a").manifest.owner, registry.broken()) == ("acme", {})


def test_looking_at_the_folder_reads_no_weights(registry, folders, monkeypatch) -> None:
    registry.publish(folders["qv"], "a")
    read: list[Path] = []
    original = manifest.sha256_of
    monkeypatch.setattr(manifest, "sha256_of", lambda file: (read.append(file), original(file))[1])
    for _ in range(5):
        registry.refresh()
    assert read == []
    registry.read_with(registry.get("a"), read_weights)
    assert {file.name for file in read} == {WEIGHTS, "adapter_config.json"}
