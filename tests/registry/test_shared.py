"""Replicas with a folder each over one store: what one publishes all serve, and a number never means two things."""

import json
import shutil
import threading
from pathlib import Path
from typing import ClassVar

import fsspec
import pytest
import torch

from app.errors import AdapterNotFound, AdapterRejected, BadRequest, Conflict, SharedStoreFailed
from app.registry import remote as object_store
from app.registry.adapter_files.weights import read_weights
from app.registry.disk import Store
from app.registry.remote import RemoteStore
from app.registry.replicated import ReplicatedRegistry, open_registry
from app.registry.replicated_state import Name, State, Version


@pytest.fixture
def store(tmp_path: Path) -> Path:
    folder = tmp_path / "store"
    folder.mkdir()
    return folder


@pytest.fixture
def replica(tmp_path: Path, store: Path, loaded):
    """`replica("one")`: a registry with a folder of its own; the same name again is a restart."""

    def make(name: str) -> ReplicatedRegistry:
        made = open_registry(tmp_path / name, loaded.spec, max_rank=64, keep_versions=2, shared=f"file://{store}")
        made.open()
        return made

    return make


def holds(registry, name: str, folder: Path) -> bool:
    expected, found = read_weights(folder), registry.read_with(registry.get(name), read_weights)
    return all(torch.equal(pair.a, found.lora[path].a) for path, pair in expected.lora.items())


def newest(store: Path) -> Path:
    return max((store / "states").glob("[0-9]*.json"))


def test_a_held_version_waits_on_every_replica(replica, folders):
    one, two = replica("one"), replica("two")
    one.publish(folders["qv"], "a")
    one.publish(folders["rslora"], "a", replace=True, hold=True)
    two.refresh()
    for registry in (one, two):
        assert (registry.get("a").uid, registry.versions("a")) == ("a@1", [1, 2])
        assert holds(registry, "a", folders["qv"])
    assert two.rollback("a", 2).uid == "a@2"
    one.refresh()
    for registry in (one, two):
        assert holds(registry, "a", folders["rslora"])
    one.publish(folders["qv2"], "a", replace=True, hold=True)
    two.refresh()
    assert (two.get("a").uid, two.versions("a")[-1]) == ("a@2", 3)


def test_publish_replace_rollback_and_remove_reach_the_others(replica, folders):
    one, two = replica("one"), replica("two")
    assert one.publish(folders["qv"], "a", owner="t", task="read").uid == "a@1"
    assert two.refresh() == ["a"]
    assert (two.get("a").uid, two.owner("a"), two.get("a").manifest.task) == ("a@1", "t", "read")
    assert holds(two, "a", folders["qv"])
    first = two.get("a")
    assert two.publish(folders["rslora"], "a", replace=True, owner="t").uid == "a@2"
    one.refresh()
    assert holds(one, "a", folders["rslora"])
    assert one.versions("a") == two.versions("a") == [1, 2]
    assert two.read_with(first, read_weights).lora, "a request that began with the old version still finds it"
    assert one.rollback("a").uid == "a@1"
    two.refresh()
    assert two.get("a").uid == "a@1"
    assert holds(two, "a", folders["qv"])
    assert two.past_owner("a", 2) == "t"
    two.remove("a")
    one.refresh()
    with pytest.raises(AdapterNotFound):
        one.get("a")
    assert one.removed() == two.removed() == {"a": [1, 2]}
    assert one.rollback("a").uid == "a@2"
    two.refresh()
    assert (two.removed(), holds(two, "a", folders["rslora"])) == ({}, True)
    two.remove("a")
    assert one.publish(folders["qv2"], "a").uid == "a@3", "a number is never given twice"


def test_a_name_that_is_not_known_is_looked_for_at_once(replica, folders):
    one, two = replica("one"), replica("two")
    one.publish(folders["qv"], "a")
    two.fetch_missing("a")
    assert two.get("a").uid == "a@1"


def test_two_replicas_that_publish_one_name_at_once_never_share_a_number(replica, folders):
    replicas = [replica(f"r{index}") for index in range(4)]
    start, won, lost = threading.Barrier(4), [], []

    def publish(registry, kind):
        start.wait()
        try:
            won.append((registry.publish(folders[kind], "a", replace=True).uid, kind))
        except Conflict:
            lost.append(kind)

    kinds = ("qv", "qv2", "rslora", "ranks")
    threads = [threading.Thread(target=publish, args=pair) for pair in zip(replicas, kinds, strict=True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(won) + len(lost) == 4
    assert won
    assert len({uid for uid, _ in won}) == len(won)
    last, kind = max(won)
    for registry in replicas:
        registry.refresh()
        assert registry.get("a").uid == last
        assert holds(registry, "a", folders[kind])


def test_changes_of_different_names_at_once_are_all_kept(replica, folders, store):
    replicas = [replica(f"r{index}") for index in range(3)]
    threads = [
        threading.Thread(target=lambda r=registry, i=index: [r.publish(folders["qv"], f"a{i}-{n}") for n in range(4)])
        for index, registry in enumerate(replicas)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    for registry in replicas:
        registry.refresh()
        assert len(registry.names()) == 12
    assert State.model_validate_json(newest(store).read_text()).number == 12


@pytest.mark.parametrize("step", ["put_file", "link", "rename"])
def test_a_crash_leaves_the_old_version_or_the_new_one(step, replica, folders, monkeypatch):
    """Before the last file is uploaded, before the state is written, and after it, before the folder is switched."""

    class Crash(BaseException):
        pass

    def crash(*_, **__):
        raise Crash

    one, two = replica("one"), replica("two")
    one.publish(folders["qv"], "a")
    two.refresh()
    place = {
        "put_file": (type(one.shared._system), "put_file"),
        "link": (object_store.os, "link"),
        "rename": (Store, "switch"),
    }[step]
    monkeypatch.setattr(*place, crash)
    with pytest.raises(Crash):
        one.publish(folders["rslora"], "a", replace=True)
    monkeypatch.undo()
    expected = "a@2" if step == "rename" else "a@1"
    for registry in (replica("one"), two, replica("three")):
        registry.refresh()
        assert registry.get("a").uid == expected
        assert holds(registry, "a", folders["rslora" if step == "rename" else "qv"])
    assert two.publish(folders["qv2"], "a", replace=True).version > int(expected[2:])


def test_a_half_written_state_is_never_seen(replica, folders, store):
    one = replica("one")
    one.publish(folders["qv"], "a")
    (store / "states" / ".half").write_text('{"numb')  # what a crash leaves
    assert replica("two").get("a").uid == "a@1"


def test_a_damaged_object_is_quarantined_and_the_others_served(replica, folders, store):
    one = replica("one")
    for name in ("a", "b", "c"):
        one.publish(folders["qv"], name)
    (weights,) = (store / "adapters" / "a").rglob("adapter_model.safetensors")
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    (config,) = (store / "adapters" / "b").rglob("adapter_config.json")
    config.unlink()
    two = replica("two")
    assert two.names() == ["c"]
    assert "adapter_model.safetensors has another checksum" in two.broken()["a"]
    assert "adapter_config.json is missing" in two.broken()["b"]
    with pytest.raises(AdapterRejected, match="another checksum"):
        two.get("a")
    assert one.names() == ["a", "b", "c"], "who holds a whole copy serves it"
    one.publish(folders["qv2"], "a", replace=True)
    two.refresh()
    assert two.get("a").uid == "a@2"
    one.remove("b")
    two.refresh()
    assert two.broken() == {}


def test_while_the_store_is_away_what_is_held_is_served(replica, folders, store, tmp_path):
    one = replica("one")
    one.publish(folders["qv"], "a")
    store.rename(tmp_path / "away")
    assert one.refresh() == []
    assert one.get("a").uid == "a@1"
    assert one.shared.failure == "its folder is not there"
    for change in (
        lambda: one.publish(folders["qv"], "b"),
        lambda: one.remove("a"),
        lambda: one.rollback("a"),
        lambda: one.defaults.change(lambda chosen: chosen.update({"": "a"})),
        lambda: one.announce_unload(None),
    ):
        with pytest.raises(SharedStoreFailed, match="its folder is not there"):
            change()
    again = replica("one")
    assert again.names() == ["a"], "also after a restart"
    assert replica("two").names() == []
    (tmp_path / "away").rename(store)
    again.publish(folders["qv2"], "b")
    one.refresh()
    assert (one.names(), one.shared.failure) == (["a", "b"], None)


def test_selection_and_unloads_are_shared(replica, folders):
    one, two = replica("one"), replica("two")
    freed: list[list[str] | None] = []
    two.on_unload, one.on_unload = freed.append, lambda names: pytest.fail("its own")
    one.defaults.change(lambda chosen: chosen.update({"": "a", "tenant": "b"}))
    one.announce_unload(["a"])
    one.announce_unload(None)
    one.refresh()
    two.refresh()
    assert two.defaults.all() == {"": "a", "tenant": "b"}
    assert freed == [["a"], None]
    two.refresh()
    assert len(freed) == 2
    freed.clear()
    for _ in range(40):  # more than are kept
        one.announce_unload(["a"])
    two.refresh()
    assert freed == [None]
    replica("three").on_unload = lambda names: pytest.fail("it was not there")


def test_what_lies_in_the_folder_at_first_is_published_and_later_changes_are_undone(replica, folders, tmp_path):
    shutil.copytree(folders["qv"], tmp_path / "one" / "a")
    shutil.copytree(folders["qv2"], tmp_path / "two" / "a")
    one = replica("one")
    assert one.get("a").uid == "a@1"
    two = replica("two")
    assert holds(two, "a", folders["qv"]), "the first one counts"
    assert list((tmp_path / "two" / ".history" / "a").glob("aside-*")), "the other is put aside"
    shutil.copyfile(folders["rslora"] / "adapter_config.json", tmp_path / "one" / "a" / "adapter_config.json")
    one.refresh()
    assert one.get("a").uid == "a@1"
    assert holds(one, "a", folders["qv"])
    shutil.rmtree(tmp_path / "one" / "a")
    one.refresh()
    assert holds(one, "a", folders["qv"])


def test_a_restart_fetches_nothing_again(replica, folders, monkeypatch):
    replica("one").publish(folders["qv"], "a")
    two = replica("two")
    monkeypatch.setattr(RemoteStore, "download", lambda *_: pytest.fail("downloaded again"))
    assert replica("two").get("a").files == two.get("a").files


def test_versions_beyond_those_kept_leave_the_store(replica, folders, store):
    one = replica("one")
    for _ in range(5):
        one.publish(folders["qv"], "a", replace=True)
    assert one.versions("a") == [3, 4, 5]
    assert len(list((store / "adapters" / "a").iterdir())) == 3


def test_old_states_go_and_a_write_among_them_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(object_store, "STATES_KEPT", 3)
    store, slow = RemoteStore(f"file://{tmp_path}"), RemoteStore(f"file://{tmp_path}")
    store.change(lambda state: None)

    def edit(state):
        for _ in range(8):
            store.change(lambda state: None)
        monkeypatch.setattr(RemoteStore, "read", lambda self: State(number=1))

    with pytest.raises(Conflict, match="so long"):
        slow.change(edit)
    monkeypatch.undo()
    assert store.read().number == 9
    assert len(list((tmp_path / "states").iterdir())) <= 5


@pytest.mark.parametrize("url", ["memory://x", "http://host/x", "simplecache::s3://bucket/x", "nonsense://x"])
def test_a_store_that_would_write_twice_is_refused(url):
    with pytest.raises(BadRequest, match="refuse to write an object twice"):
        RemoteStore(url)


class Bucket(fsspec.get_filesystem_class("memory")):
    """As a bucket behaves: an exclusive write is atomic, and its client may have met its own first try."""

    cachable = False
    store: ClassVar = {}
    pseudo_dirs: ClassVar = [""]
    answers: ClassVar = []

    def pipe_file(self, path, value, mode="overwrite", **kwargs):
        assert mode == "create"
        if self.exists(path):
            raise FileExistsError(path)
        super().pipe_file(path, value)
        if self.answers:
            raise self.answers.pop()


def test_an_object_store_whose_client_tries_again(tmp_path, monkeypatch, folders):
    monkeypatch.setattr(object_store.fsspec.core, "url_to_fs", lambda url, **_: (Bucket(), "/bucket"))
    one, two = RemoteStore("s3://bucket"), RemoteStore("s3://bucket")
    Bucket.answers = [OSError("412 of its own second try")]
    version = one.upload(folders["qv"], "a", None)
    state = one.change(lambda state: state.add("a", 1, version, 5) and None)
    assert two.read() == state
    with pytest.raises(Conflict, match="same moment"):
        two.change(lambda state: state.add("a", 1, version, 5) and None)
    two.download(version, tmp_path)
    assert {file.name for file in tmp_path.iterdir()} == set(version.files)
    one.delete([version])
    with pytest.raises(AdapterRejected, match="missing"):
        two.download(version, tmp_path)


def test_a_state_of_a_newer_overtone_is_refused_and_never_overwritten(store, replica, folders):
    one = replica("one")
    one.publish(folders["qv"], "a")
    newer = json.loads(newest(store).read_text()) | {"schema": 2, "number": 2}
    (store / "states" / f"{2:012d}.json").write_text(json.dumps(newer))
    one.refresh()
    assert (one.names(), one.shared.failure) == (["a"], "its state cannot be read")
    with pytest.raises(SharedStoreFailed):
        one.remove("a")


def test_unloads_after():
    state = State(names={"a": Name(current=1, last=1, versions={1: Version(place="a/x", files={})})})
    state.unload(["a"])
    state.unload(None)
    assert [unload.names for unload in state.unloads_after(0)] == [["a"], None]
    assert state.unloads_after(2) == []
