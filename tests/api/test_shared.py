"""Two servers over one store: what is done at one holds at the other, within `watch_seconds`."""

import json
import shutil
from contextlib import AsyncExitStack
from pathlib import Path

from app.registry.replicated import open_registry
from tests.api.conftest import ask, until
from training.publish import open_registry as open_for_training


async def pair(stack: AsyncExitStack, running, store: Path):
    store.mkdir()  # noqa: ASYNC240
    shared = {"shared_adapters": f"file://{store}"}
    return [await stack.enter_async_context(running(**shared)) for _ in range(2)]


def files(folder: Path):
    return [("file", (file.name, file.read_bytes())) for file in folder.iterdir() if file.name.startswith("adapter_")]


async def test_what_is_done_at_one_server_holds_at_the_other(running, adapter_folders, tmp_path):
    async with AsyncExitStack() as stack:
        one, two = await pair(stack, running, tmp_path / "store")
        added = await one.post("/adapters", data={"name": "late"}, files=files(adapter_folders["alpha"]))
        assert added.status_code == 201, added.text
        answer, expected = await ask(two, adapter="late"), await ask(two, adapter="alpha")
        assert answer["adapter"] == {"name": "late", "version": 1}
        assert answer["text"] == expected["text"], "named before any watch had looked: looked for at once"
        refused = await two.post("/adapters", data={"name": "late"}, files=files(adapter_folders["beta"]))
        assert refused.status_code == 409

        await one.post("/adapters/late/select")

        async def active(is_now):
            async def told():
                return all([(await client.get("/ready")).json()["active"] == is_now for client in (one, two)])

            await until(told)

        await active("late")
        assert (await ask(two))["text"] == expected["text"]
        assert (await two.get("/ready")).json()["resident"] > 0
        unloaded = (await one.post("/unload")).json()
        assert unloaded["unchanged"]
        await active(None)

        async def freed():
            return (await two.get("/ready")).json()["resident"] == 0

        await until(freed)
        assert (await one.delete("/adapters/late")).status_code == 200

        async def gone():
            return (await two.post("/generate", data={"adapter": "late", "prompt": "x"})).status_code == 404

        await until(gone)


async def test_a_store_that_is_away_is_told_and_stops_no_answer(running, adapter_folders, tmp_path):
    async with AsyncExitStack() as stack:
        one, _ = await pair(stack, running, tmp_path / "store")
        assert (await one.get("/status")).json()["shared"]["reachable"]
        shutil.move(tmp_path / "store", tmp_path / "away")
        added = await one.post("/adapters", data={"name": "late"}, files=files(adapter_folders["alpha"]))
        assert (added.status_code, added.json()["code"]) == (503, "shared_store")
        assert "its folder is not there" in added.json()["detail"]
        assert (await one.post("/unload")).status_code == 503
        await ask(one, adapter="alpha")
        unknown = await one.post("/generate", data={"adapter": "nobody", "prompt": "x"})
        assert unknown.status_code == 404
        told = (await one.get("/status")).json()["shared"]
        assert (told["reachable"], told["failure"]) == (False, "its folder is not there")
        assert "overtone_shared_store_up 0.0" in (await one.get("/metrics")).text
        assert str(tmp_path) not in json.dumps(told) + added.text


def test_what_a_trainer_publishes_is_in_the_store(settings, loaded, adapter_folders, tmp_path):
    """`python -m training` opens its registry so, with the environment that a job's process gets."""
    (tmp_path / "store").mkdir()
    told = settings(tmp_path / "one", shared_adapters=f"file://{tmp_path / 'store'}")
    assert told.for_children()["OVERTONE_SHARED_ADAPTERS"] == told.shared_adapters
    open_for_training(tmp_path / "one", loaded.spec, told).publish(adapter_folders["alpha"], "trained")
    other = open_registry(tmp_path / "two", loaded.spec, max_rank=64, keep_versions=2, shared=told.shared_adapters)
    other.open()
    assert other.get("trained").uid == "trained@1"
