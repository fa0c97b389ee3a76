"""Names, versions, atomic switches, and a folder that others write to as well."""

import contextlib
import shutil
import threading
import time
from pathlib import Path

import pytest
import torch

import app.registry.adapter_files.describe as describe_module
import app.registry.folder as registry_module
from app.access.caller import Caller
from app.errors import AdapterNotFound, AdapterRejected, BadRequest, Conflict, NotFound
from app.registry.adapter_files.weights import read_weights
from app.registry.local import LocalRegistry
from app.registry.tenant_view import TenantRegistry


def same_weights(one, other) -> bool:
    return all(torch.equal(pair.a, other.lora[path].a) for path, pair in one.lora.items())


def reopened(registry: LocalRegistry, loaded) -> LocalRegistry:
    again = LocalRegistry(registry.root, loaded.spec, max_rank=64, keep_versions=3)
    again.open()
    return again


def test_publish_get_and_what_the_manifest_says(registry, folders, loaded):
    published = registry.publish(folders["qv"], "my-adapter.v1", task="to be read", prompt="Say it.")
    manifest = registry.get("my-adapter.v1").manifest
    assert published.uid == "my-adapter.v1@1"
    assert (manifest.rank, manifest.alpha, manifest.parts) == (4, 16, ["language_model"])
    assert (manifest.task, manifest.prompt) == ("to be read", "Say it.")
    assert manifest.base.fingerprint == loaded.spec.fingerprint
    assert set(manifest.files) == {"adapter_config.json", "adapter_model.safetensors"}
    assert reopened(registry, loaded).get("my-adapter.v1").manifest == manifest


@pytest.mark.parametrize("name", ["base", "", "Upper", "a/b", "..", "../x", ".hidden", "a" * 65, "sp ace", "ü"])
def test_names_that_are_none(name, registry, folders):
    with pytest.raises(BadRequest, match="cannot name an adapter"):
        registry.publish(folders["qv"], name)
    with pytest.raises(AdapterNotFound):
        registry.remove(name)
    assert registry.root.parent.is_dir()


def test_taken_names_and_replacing(registry, folders):
    first = registry.publish(folders["qv"], "a")
    with pytest.raises(Conflict, match="taken"):
        registry.publish(folders["rslora"], "a")
    second = registry.publish(folders["rslora"], "a", replace=True)
    assert (first.version, second.version) == (1, 2)
    assert registry.versions("a") == [1, 2]
    assert same_weights(registry.read_with(first, read_weights), read_weights(folders["qv"]))
    assert same_weights(registry.read_with(second, read_weights), read_weights(folders["rslora"]))


def test_rollback_and_numbers_that_only_grow(registry, folders):
    for kind in ("qv", "qv2", "rslora"):
        registry.publish(folders[kind], "a", replace=True)
    assert registry.rollback("a").version == 2
    assert registry.rollback("a", 1).version == 1
    assert same_weights(registry.read_with(registry.get("a"), read_weights), read_weights(folders["qv"]))
    with pytest.raises(NotFound, match="no such older version"):
        registry.rollback("a", 9)
    assert registry.publish(folders["qv"], "a", replace=True).version == 4


def test_remove_keeps_the_history_and_running_requests_their_version(registry, folders, loaded):
    adapter = registry.publish(folders["qv"], "a")
    registry.remove("a")
    assert registry.names() == []
    assert same_weights(registry.read_with(adapter, read_weights), read_weights(folders["qv"]))
    assert reopened(registry, loaded).names() == []
    assert registry.publish(folders["qv2"], "a").version == 2
    registry.publish(folders["qv"], "abc-def")
    with pytest.raises(AdapterNotFound, match="did you mean abc-def"):
        registry.get("abc-deg")


def test_a_removed_adapter_comes_back_by_a_rollback(registry, folders, loaded):
    for kind in ("qv", "qv2", "rslora"):
        registry.publish(folders[kind], "a", replace=True)
    assert registry.removed() == {}
    registry.remove("a")
    again = reopened(registry, loaded)
    for view in (registry, again):
        assert view.removed() == {"a": [1, 2, 3]}
    back = again.rollback("a")
    assert (back.version, again.removed(), again.versions("a")) == (3, {}, [1, 2, 3])
    assert same_weights(again.read_with(back, read_weights), read_weights(folders["rslora"]))
    assert registry.refresh() == ["a"]
    registry.remove("a")
    with pytest.raises(NotFound, match="no such older version; there are: 1, 2, 3"):
        registry.rollback("a", 4)
    assert registry.rollback("a", 1).version == 1
    assert same_weights(registry.read_with(registry.get("a"), read_weights), read_weights(folders["qv"]))
    assert registry.publish(folders["qv"], "a", replace=True).version == 4
    with pytest.raises(AdapterNotFound):
        registry.rollback("never")


def test_a_removed_adapter_comes_back_for_its_owner_alone(registry, folders):
    acme, other, operator = (
        TenantRegistry(registry, caller)
        for caller in (Caller("a", tenant="acme"), Caller("b", tenant="other"), Caller("c"))
    )
    acme.publish(folders["qv"], "a")
    acme.remove("a")
    assert (acme.removed(), other.removed(), operator.removed()) == ({"a": [1]}, {}, {"a": [1]})
    with pytest.raises(AdapterNotFound) as hidden:
        other.rollback("a")
    assert "removed" not in str(hidden.value)
    with pytest.raises(AdapterNotFound, match="it was removed, and rolling it back makes version 1 current"):
        acme.get("a")
    other.publish(folders["qv2"], "a")  # the name is free
    other.remove("a")
    assert (acme.removed(), other.removed()) == ({"a": [1]}, {"a": [2]})
    with pytest.raises(NotFound):
        acme.rollback("a", 2)
    assert (acme.rollback("a").version, registry.owner("a")) == (1, "acme")


def overwrite(source: Path, target: Path) -> None:
    shutil.copytree(source, target, dirs_exist_ok=True)
    (target / "manifest.json").unlink(missing_ok=True)


def test_a_number_stands_for_one_set_of_weights_whatever_hands_do(registry, folders):
    """Broken and completed again, edited and rolled back, removed and dropped in: never an old uid."""
    place = registry.root / "a"
    weights = {}

    def look():
        registry.refresh()
        adapter = registry.get("a")
        read = registry.read_with(adapter, read_weights)
        assert same_weights(read, weights.setdefault(adapter.uid, read)), adapter.uid
        return adapter.version

    overwrite(folders["qv"], place)
    assert look() == 1
    (place / "adapter_model.safetensors").write_bytes(b"half")
    registry.refresh()
    assert registry.names() == []
    overwrite(folders["qv2"], place)
    assert look() == 2
    overwrite(folders["qv"], place)
    assert look() == 3
    registry.publish(folders["rslora"], "a", replace=True)
    assert look() == 4
    assert registry.rollback("a").version == 3
    assert look() == 3
    registry.remove("a")
    overwrite(folders["qv2"], place)
    assert look() > 4


def test_a_version_changed_on_disk_is_not_read_as_what_it_was(registry, folders):
    adapter = registry.publish(folders["qv"], "a")
    shutil.copy(folders["qv2"] / "adapter_model.safetensors", registry.root / "a")
    with pytest.raises(Conflict, match="changed on disk"):
        registry.read_with(adapter, read_weights)


def test_a_number_is_not_rolled_back_to_for_other_weights(registry, folders):
    """A version whose files were changed in the history comes back under a number of its own."""
    shutil.copytree(folders["qv"], registry.root / "a")
    registry.refresh()
    old, read = registry.get("a"), registry.read_with(registry.get("a"), read_weights)
    registry.publish(folders["rslora"], "a", replace=True)
    assert registry.rollback("a").uid == old.uid
    registry.publish(folders["rslora"], "a", replace=True)
    shutil.copy(folders["qv2"] / "adapter_model.safetensors", registry.root / ".history" / "a" / "1")
    back = registry.rollback("a", 1)
    assert back.version == 4
    assert same_weights(registry.read_with(back, read_weights), read_weights(folders["qv2"]))
    assert not same_weights(registry.read_with(back, read_weights), read)


def test_weights_that_were_read_stay_when_their_file_is_overwritten(registry, folders):
    """A mapped file would change them, and kill the process once it is cut."""
    adapter = registry.publish(folders["qv"], "a")
    read = registry.read_with(adapter, read_weights)
    file = registry.root / "a" / "adapter_model.safetensors"
    shutil.copyfile(folders["qv2"] / "adapter_model.safetensors", file)
    assert same_weights(read, read_weights(folders["qv"]))
    file.write_bytes(b"")
    assert same_weights(read, read_weights(folders["qv"]))


def test_two_processes_share_a_folder(registry, folders, loaded, monkeypatch):
    """A command beside a running service neither spoils what that is writing nor loses a version."""
    check = registry.adapters.check

    def interrupted(folder):
        reopened(registry, loaded)
        return check(folder)

    monkeypatch.setattr(registry.adapters, "check", interrupted)
    registry.publish(folders["qv"], "a")
    monkeypatch.undo()
    other = reopened(registry, loaded)
    assert other.publish(folders["qv2"], "a", replace=True).version == 2
    assert registry.publish(folders["rslora"], "a", replace=True).version == 3
    assert other.rollback("a", 1).version == 1
    registry.refresh()
    assert registry.versions("a") == [1, 2, 3]
    registry.remove("a")
    assert same_weights(read_weights(registry.root / ".history" / "a" / "1"), read_weights(folders["qv"]))
    assert list((registry.root / ".staging").iterdir()) == []


def test_a_change_during_a_publish_is_told(registry, folders, loaded, monkeypatch):
    registry.publish(folders["qv"], "a")
    check = registry.adapters.check

    def interrupted(folder):
        monkeypatch.undo()
        reopened(registry, loaded).publish(folders["qv2"], "a", replace=True)
        return check(folder)

    monkeypatch.setattr(registry.adapters, "check", interrupted)
    with pytest.raises(Conflict, match="same moment"):
        registry.publish(folders["rslora"], "a", replace=True)
    assert reopened(registry, loaded).versions("a") == [1, 2]


def test_links_are_published_as_what_they_lead_to(registry, copy, folders, tmp_path):
    folder = copy()
    weights = folder / "adapter_model.safetensors"
    weights.rename(tmp_path / "blob")
    weights.symlink_to(tmp_path / "blob")
    adapter = registry.publish(folder, "a")
    published = registry.folder(adapter) / "adapter_model.safetensors"
    assert not published.is_symlink()
    assert same_weights(registry.read_with(adapter, read_weights), read_weights(folders["qv"]))


def test_nothing_waits_for_long_work_on_files(registry, folders, monkeypatch):
    """While one adapter is validated, hashed or rolled back, others are looked up at once."""
    for kind in ("qv", "qv2"):
        registry.publish(folders[kind], "a", replace=True)
    for module, name, work in (
        (registry_module, "validate", lambda: registry.rollback("a")),
        (describe_module, "sha256_of", lambda: registry.publish(folders["qv"], "b")),
    ):
        original = getattr(module, name)
        entered, leave = threading.Event(), threading.Event()

        def slow(*args, original=original, entered=entered, leave=leave, **kwargs):
            entered.set()
            assert leave.wait(30)
            return original(*args, **kwargs)

        monkeypatch.setattr(module, name, slow)
        thread = threading.Thread(target=work)
        thread.start()
        assert entered.wait(30)
        asked = threading.Thread(target=registry.get, args=("a",))
        asked.start()
        asked.join(60)
        assert not asked.is_alive()
        leave.set()
        thread.join(30)
        monkeypatch.undo()
    assert (registry.get("a").version, registry.get("b").version) == (1, 1)


def test_a_version_that_no_longer_fits_is_not_rolled_back_to(registry, folders):
    for kind in ("qv", "qv2"):
        registry.publish(folders[kind], "a", replace=True)
    (registry.root / ".history" / "a" / "1" / "adapter_model.safetensors").write_bytes(b"rot")
    with pytest.raises(AdapterRejected, match="Version 1"):
        registry.rollback("a")
    assert registry.get("a").version == 2


def test_old_versions_are_pruned(registry, folders):
    for _ in range(6):
        registry.publish(folders["qv"], "a", replace=True)
    assert registry.versions("a") == [3, 4, 5, 6]


def test_what_was_current_is_kept_for_those_who_wait(tmp_path, loaded, folders, monkeypatch):
    """Also after a rollback, which puts a low number behind higher ones."""
    registry = LocalRegistry(tmp_path / "registry", loaded.spec, max_rank=64, keep_versions=1, grace_s=60)
    registry.open()
    first, second = (registry.publish(folders["qv"], "a", replace=True) for _ in range(2))
    registry.rollback("a")
    for _ in range(4):
        registry.publish(folders["qv2"], "a", replace=True)
    assert same_weights(registry.read_with(first, read_weights), registry.read_with(second, read_weights))
    later = time.monotonic() + 61
    monkeypatch.setattr("app.registry.disk.time.monotonic", lambda: later)
    registry.publish(folders["qv"], "a", replace=True)
    assert registry.versions("a") == [6, 7]


def test_what_does_not_fit_is_never_named(registry, copy):
    with pytest.raises(AdapterRejected) as caught:
        registry.publish(copy(r=100), "a")
    assert "exceeds" in caught.value.problems[0]
    assert registry.names() == []
    assert not (registry.root / "a").exists()


STEPS = ["copyfile", "write_text", "rename:1", "rename:2", "unlink"]


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("history", ["published", "rolled back", "removed", "new"])
def test_a_crash_at_any_step_leaves_the_old_or_the_new_version_whole(
    step, history, registry, folders, loaded, monkeypatch
):
    if history != "new":
        registry.publish(folders["qv"], "a")
        registry.publish(folders["qv2"], "a", replace=True)
    if history == "rolled back":
        registry.rollback("a")
    if history == "removed":
        registry.remove("a")
    before = registry.get("a").version if registry.names() else None
    _crash_at(step, monkeypatch)
    with contextlib.suppress(KeyboardInterrupt):
        registry.publish(folders["rslora"], "a", replace=True)
    monkeypatch.undo()
    again = reopened(registry, loaded)
    after = again.get("a").version if again.names() else None
    new = 1 if history == "new" else 3
    assert after in (before, new)
    assert again.broken() == {}
    if after is not None:
        kind = {1: "qv", 2: "qv2", 3: "rslora"}[after] if history != "new" else "rslora"
        assert same_weights(again.read_with(again.get("a"), read_weights), read_weights(folders[kind]))
    assert again.publish(folders["qv"], "a", replace=True).version > (after or 0)


@pytest.mark.parametrize("step", ["write_text", "rename:1", "rename:2", "unlink"])
def test_a_crash_in_a_rollback_leaves_either_version_and_the_history_whole(
    step, registry, folders, loaded, monkeypatch
):
    kinds = ("qv", "qv2", "rslora")
    for kind in kinds:
        registry.publish(folders[kind], "a", replace=True)
    _crash_at(step, monkeypatch)
    with contextlib.suppress(KeyboardInterrupt):
        registry.rollback("a", 1)
    monkeypatch.undo()
    again = reopened(registry, loaded)
    assert again.get("a").version in (1, 3)
    assert (again.versions("a"), again.broken()) == ([1, 2, 3], {})
    assert same_weights(
        again.read_with(again.get("a"), read_weights), read_weights(folders[kinds[again.get("a").version - 1]])
    )


def test_a_crash_in_a_removal_removes_all_or_nothing(registry, folders, loaded, monkeypatch):
    registry.publish(folders["qv"], "a")
    _crash_at("rename", monkeypatch)
    with contextlib.suppress(KeyboardInterrupt):
        registry.remove("a")
    monkeypatch.undo()
    again = reopened(registry, loaded)
    assert same_weights(again.read_with(again.get("a"), read_weights), read_weights(folders["qv"]))


def _crash_at(step: str, monkeypatch) -> None:
    """The process dies when a function is called for the n-th time."""
    name, _, number = step.partition(":")
    owner = shutil if name == "copyfile" else Path
    original = getattr(owner, name)
    calls = []

    def dying(*args, **kwargs):
        calls.append(args)
        if len(calls) >= int(number or 1):
            raise KeyboardInterrupt
        return original(*args, **kwargs)

    monkeypatch.setattr(owner, name, dying)


def test_a_folder_dropped_in_is_served_and_follows_its_files(registry, folders):
    shutil.copytree(folders["qv"], registry.root / "dropped")
    assert registry.refresh() == ["dropped"]
    first = registry.get("dropped")
    assert registry.refresh() == []
    shutil.copytree(folders["rslora"], registry.root / "dropped", dirs_exist_ok=True)
    assert registry.refresh() == ["dropped"]
    assert registry.get("dropped").version > first.version
    shutil.rmtree(registry.root / "dropped")
    assert registry.refresh() == ["dropped"]
    with pytest.raises(AdapterNotFound):
        registry.get("dropped")


def test_a_half_copied_or_misnamed_folder_is_told_not_served(registry, folders):
    half = registry.root / "half"
    half.mkdir()
    shutil.copy(folders["qv"] / "adapter_config.json", half)
    shutil.copytree(folders["qv"], registry.root / "Bad Name")
    (registry.root / "weird").mkdir()
    (registry.root / "weird" / "adapter_config.json").mkdir()
    registry.refresh()
    assert registry.names() == []
    assert set(registry.broken()) == {"half", "Bad Name", "weird"}
    with pytest.raises(AdapterRejected, match="missing"):
        registry.get("half")
    shutil.copy(folders["qv"] / "adapter_model.safetensors", half)
    registry.refresh()
    assert registry.names() == ["half"]


def test_two_at_once_one_name(registry, folders):
    outcomes = []

    def publish():
        try:
            outcomes.append(registry.publish(folders["qv"], "a").version)
        except Conflict:
            outcomes.append("conflict")

    threads = [threading.Thread(target=publish) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert outcomes.count("conflict") == 3
    assert registry.get("a").version in outcomes
    assert list((registry.root / ".staging").iterdir()) == []


def test_publishing_while_the_folder_is_watched(registry, folders):
    """A look that began before a publish must not forget or break what was published."""
    stop = threading.Event()

    def watch():
        while not stop.is_set():
            registry.refresh()

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        for index in range(40):
            name = f"a{index % 4}"
            version = registry.publish(folders["qv"], name, replace=True).version
            assert registry.get(name).version == version
            assert registry.broken() == {}
    finally:
        stop.set()
        watcher.join()
    assert registry.names() == ["a0", "a1", "a2", "a3"]


def test_a_publish_during_a_look_wins(registry, folders, monkeypatch):
    shutil.copytree(folders["qv"], registry.root / "a")
    check = registry.adapters.check

    def interrupted(folder):
        report = check(folder)
        if folder == registry.root / "a":
            monkeypatch.undo()
            registry.publish(folders["rslora"], "a", replace=True)
        return report

    monkeypatch.setattr(registry.adapters, "check", interrupted)
    registry.refresh()
    assert same_weights(registry.read_with(registry.get("a"), read_weights), read_weights(folders["rslora"]))
    assert registry.refresh() == []
