"""Heads in the registry: what fits, every reason not to, and the same life as any adapter."""

import io
import json
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import fsspec
import pytest
import torch
from safetensors.torch import load_file, save_file

from app.errors import AdapterRejected, BadRequest
from app.models.head import Head, read_head
from app.registry.adapter_files.classifier_check import MAX_BYTES as MAX_HEAD_BYTES
from app.registry.adapter_files.validate import validate
from app.registry.archive import copy_adapter, unpack
from app.registry.archive_reader import ArchiveLimits
from app.registry.sources import fetch
from tests.support import make_head

LIMITS = ArchiveLimits(1 << 20)
FILES = ["head.json", "head.safetensors"]


def check(folder: Path, loaded):
    return validate(folder, loaded.spec, max_rank=64)


@pytest.fixture
def spoilt(tmp_path: Path) -> Callable[..., Path]:
    """A head with fields of its configuration set, or its tensors changed in place."""

    def make(tensors=None, made_with=0, **config) -> Path:
        folder = make_head(tmp_path / "spoilt", hidden=made_with)
        file = folder / "head.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | config))
        if tensors:
            held = load_file(folder / "head.safetensors")
            tensors(held)
            save_file(held, folder / "head.safetensors")
        return folder

    return make


@pytest.mark.parametrize("hidden", [0, 5])
def test_a_head_is_read_as_it_was_saved(hidden: int, tmp_path: Path, loaded) -> None:
    folder = make_head(tmp_path / "head", hidden=hidden)
    report = check(folder, loaded)
    assert (report.problems, report.serving, report.parts) == ([], "classify", [])
    assert report.labels == ["high", "low", "silence"]
    assert report.tensors == (6 if hidden else 4)
    assert report.parameters == 2 * 64 + (5 * 65 + 3 * 6 if hidden else 3 * 65)
    head = read_head(folder)
    features = torch.randn(4, 64)
    hidden_layer = (features - head.tensors["mean"]) / head.tensors["scale"]
    if hidden:
        weights = head.tensors["hidden.weight"], head.tensors["hidden.bias"]
        hidden_layer = torch.nn.functional.gelu(hidden_layer @ weights[0].T + weights[1])
    logits = hidden_layer @ head.tensors["weight"].T + head.tensors["bias"]
    torch.testing.assert_close(head.probabilities(features), torch.softmax(logits / 1.5, 1))


def put(name: str, value: Callable[[torch.Tensor], torch.Tensor]):
    def change(tensors) -> None:
        tensors[name] = value(tensors[name])

    return change


@pytest.mark.parametrize(
    ("tensors", "words"),
    [
        (put("weight", lambda t: t * float("nan")), "NaN"),
        (put("scale", torch.zeros_like), "scale must be above 0"),
        (put("scale", torch.neg), "scale must be above 0"),
        (put("weight", torch.zeros_like), "the same to every recording"),
        (put("weight", lambda t: t[:1].repeat(3, 1)), "the same to every recording"),
        (put("weight", lambda t: t[:2].contiguous()), "its labels and this base need (3, 64)"),
        (put("mean", lambda t: t[:60].contiguous()), "mean has shape (60,)"),
        (put("bias", lambda t: t.long()), "not floating point"),
        (lambda tensors: tensors.pop("mean"), "mean is missing"),
        (lambda tensors: tensors.update(more=torch.ones(1)), "more: no tensors of a head with hidden = 0"),
        (lambda tensors: tensors.clear(), "no tensors"),
    ],
)
def test_tensors_that_do_not_fit(tensors, words: str, spoilt, loaded) -> None:
    assert words in " ".join(check(spoilt(tensors), loaded).problems)


def test_a_hidden_layer_that_hears_nothing(spoilt, loaded) -> None:
    deaf = spoilt(put("hidden.weight", torch.zeros_like), made_with=5)
    assert check(deaf, loaded).problems == ["it would answer the same to every recording"]


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"labels": ["a", "b", "a"]}, "'a' stands there twice"),
        ({"labels": ["a", "b", " "]}, "labels.2"),
        ({"labels": ["a"]}, "labels"),
        ({"labels": ["a", "b"]}, "its labels and this base need (2, 64)"),
        ({"labels": "abc"}, "labels"),
        ({"temperature": 0}, "temperature"),
        ({"temperature": -1}, "temperature"),
        ({"temperature": float("nan")}, "temperature"),
        ({"hidden": -1}, "hidden"),
        ({"hidden": 4}, "hidden.weight is missing"),
        ({"width": 33}, "a tower of width 33, this base's has 32"),
        ({"features": "mfcc"}, "features"),
        ({"schema": 2}, "schema"),
        ({"extra": 1}, "extra"),
    ],
)
def test_configurations_that_do_not_fit(config, words: str, spoilt, loaded) -> None:
    assert words in " ".join(check(spoilt(**config), loaded).problems)


def test_files_that_are_no_head(spoilt, loaded, folders) -> None:
    folder = spoilt()
    (folder / "head.json").write_text("[")
    assert "head.json cannot be read" in check(folder, loaded).problems[0]
    folder = spoilt()
    (folder / "head.safetensors").write_bytes(b"x" * 100)
    assert "no readable safetensors" in check(folder, loaded).problems[0]
    with (folder / "head.safetensors").open("wb") as sparse:
        sparse.truncate(MAX_HEAD_BYTES + 1)
    assert "beyond 64 MB" in check(folder, loaded).problems[0]
    (folder / "head.safetensors").unlink()
    assert check(folder, loaded).problems == ["head.safetensors is missing"]
    folder = spoilt()
    (folder / "head.pt").write_bytes(b"")
    assert check(folder, loaded).ok  # nobody's business
    (folder / "head.safetensors").rename(folder / "head.bin")
    assert "head.bin, head.pt is a pickle" in check(folder, loaded).problems[0]
    folder = spoilt()
    (folder / "adapter_config.json").write_text("{}")
    assert "one or the other" in check(folder, loaded).problems[0]


def test_published_replaced_rolled_back_and_read(registry, tmp_path: Path) -> None:
    one, two = make_head(tmp_path / "one", seed=1), make_head(tmp_path / "two", seed=2, hidden=3)
    first = registry.publish(one, "sounds", metrics={"after": {"accuracy": 0.9}})
    assert first.manifest.method == "head"
    assert (first.manifest.parts, first.manifest.rank) == ([], 0)
    assert sorted(first.manifest.files) == FILES
    assert first.manifest.metrics == {"after": {"accuracy": 0.9}}
    second = registry.publish(two, "sounds", replace=True)
    assert registry.versions("sounds") == [1, 2]
    same(registry.read_with(first, read_head), read_head(one))  # the version it began with, now in the history
    same(registry.read_with(second, read_head), read_head(two))
    back = registry.rollback("sounds")
    assert back.version == 1
    same(registry.read_with(back, read_head), read_head(one))
    same(registry.read_with(second, read_head), read_head(two))
    registry.remove("sounds")
    assert registry.names() == []


def test_a_name_may_change_from_words_to_a_head_and_back(registry, tmp_path: Path, folders) -> None:
    registry.publish(folders["qv"], "task")
    head = registry.publish(make_head(tmp_path / "head"), "task", replace=True)
    assert (head.report.serving, head.manifest.method) == ("classify", "head")
    assert registry.rollback("task").report.serving == "batched"
    assert registry.rollback("task", 2).report.serving == "classify"


def test_a_folder_dropped_in_is_served_and_a_damaged_one_told(registry, tmp_path: Path) -> None:
    make_head(registry.root / "dropped")
    assert registry.refresh() == ["dropped"]
    assert registry.get("dropped").manifest.method == "head"
    published = registry.publish(registry.root / "dropped", "whole")
    tensors = load_file(registry.root / "whole" / "head.safetensors")
    save_file({name: tensor + 1 for name, tensor in tensors.items()}, registry.root / "whole" / "head.safetensors")
    registry.refresh()
    assert "head.safetensors is damaged" in registry.broken()["whole"][0]
    with pytest.raises(AdapterRejected):
        registry.get(published.name)


def test_archives_folders_and_stores(tmp_path: Path, loaded) -> None:
    folder = make_head(tmp_path / "head")
    zipped, tarred = io.BytesIO(), io.BytesIO()
    with zipfile.ZipFile(zipped, "w") as archive:
        for name in FILES:
            archive.write(folder / name, f"somewhere/{name}")
    with tarfile.open(fileobj=tarred, mode="w:gz") as archive:
        archive.add(folder, "head")
    system = fsspec.filesystem("memory")
    for name in FILES:
        system.pipe(f"/heads/one/{name}", (folder / name).read_bytes())
    brought = {
        "zip": lambda target: unpack(zipped, "a.zip", target, LIMITS),
        "tar": lambda target: unpack(tarred, "a.tar.gz", target, LIMITS),
        "folder": lambda target: copy_adapter(folder, target, LIMITS),
        "store": lambda target: fetch(
            "memory://heads/one", target, roots=(), prefixes=("memory://heads",), limits=LIMITS
        ),
    }
    for name, bring in brought.items():
        (tmp_path / name).mkdir()
        bring(tmp_path / name)
        assert check(tmp_path / name, loaded).problems == []
        same(read_head(tmp_path / name), read_head(folder))
    (tmp_path / "empty").mkdir()
    with pytest.raises(BadRequest, match=r"no adapter_config\.json.* and no head\.json"):
        copy_adapter(tmp_path / "empty", tmp_path, LIMITS)


def same(first: Head, second: Head) -> None:
    assert first.config == second.config
    assert first.tensors.keys() == second.tensors.keys()
    assert all(torch.equal(first.tensors[name], second.tensors[name]) for name in first.tensors)
