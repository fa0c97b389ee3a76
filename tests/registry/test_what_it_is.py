"""Files that are not what their names say, and files beside an adapter that are nobody's business."""

import codecs
import io
import json
import struct
import tarfile
import tracemalloc
import zipfile

import pytest
from safetensors.torch import load_file

from app.errors import AdapterRejected, BadRequest, OvertoneError, TooLarge
from app.registry.adapter_files.manifest import read_manifest
from app.registry.adapter_files.validate import validate
from app.registry.archive import copy_adapter, unpack
from app.registry.archive_reader import ArchiveLimits
from tests.registry.test_archive import tarred, zipped

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
LIMITS = ArchiveLimits(64 << 20)
PICKLE = b"\x80\x04K\x01."


def problems(folder, loaded):
    return " ".join(validate(folder, loaded.spec, max_rank=64).problems)


@pytest.fixture
def text(folders):
    return (folders["qv"] / CONFIG).read_text()


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda text: codecs.BOM_UTF8 + text.encode(), ""),
        (lambda text: text.encode("utf-16"), "UTF-16"),
        (lambda text: text.encode("utf-16-le"), "UTF-16"),
        (lambda text: text.replace('"r": 4', '"r": 4, // small').encode(), "a comment"),
        (lambda text: text.replace('"r": 4', '"r": 4 /* small */').encode(), "a comment"),
        (lambda text: (text.rstrip()[:-1].rstrip() + ",\n}").encode(), "a comma before the closing bracket"),
        (lambda text: text.replace('"r": 4', '"r": 4, "x": [1, 2,]').encode(), "a comma before the closing bracket"),
        (lambda text: text.replace('"', "'").encode(), "single quotes"),
        (lambda text: text[: len(text) // 2].encode(), "line"),
        (lambda text: text.replace('"r": 4', '"r": 4, "r": 8').encode(), "'r' twice"),
        (lambda text: text.encode() + "ü".encode("latin-1"), "not in UTF-8"),
        (lambda text: b"", "empty"),
        (lambda text: b"  \n ", "blank"),
        (lambda text: b"[1]", "not an object"),
        (lambda text: b"<!DOCTYPE html><html>", "a web page"),
        (lambda text: b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", "Git LFS"),
        (lambda text: PICKLE, "a pickle"),
        (lambda text: b"\0" * 100, "zeros"),
        (lambda text: b" " * (5 << 20), "bytes; it may have"),
    ],
)
def test_a_configuration_that_cannot_be_read_says_why_and_where(spoil, words, text, copy, loaded):
    folder = copy()
    (folder / CONFIG).write_bytes(spoil(text))
    found = problems(folder, loaded)
    assert (found == "") if not words else (words in found and CONFIG in found)
    if words.startswith(("a comm", "single")):
        assert "line " in found
        assert "column " in found


def header(entries, data=b""):
    text = json.dumps(entries).encode()
    return struct.pack("<Q", len(text)) + text + data


KEY = "base_model.model.model.language_model.layers.0.self_attn.q_proj.lora_A.weight"
TWICE = json.dumps({KEY: {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}})[:-1]


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "empty"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", "git lfs pull"),
        (b"\n <!doctype HTML><html>Sign in</html>", "a web page"),
        (b"Entry not found", "error message"),
        (zipped({"data.pkl": PICKLE}).getvalue(), "zip archive"),
        (PICKLE * 50, "a pickle"),
        (b"GGUF" + bytes(100), "GGUF"),
        (bytes(1000), "zeros"),
        (struct.pack("<Q", 1 << 40) + b"{}", "header of"),
        (struct.pack("<Q", 1000) + b"{}", "cut off"),
        (header({KEY: {"dtype": "F32", "shape": [8, 384], "data_offsets": [0, 12288]}}, b"\1" * 99), "99 of 12,288"),
        (header({KEY: {"dtype": "F8_E4M3", "shape": [8, 384], "data_offsets": [0, 3072]}}, b"\1" * 3072), "F8_E4M3"),
        (header({KEY: {"dtype": "F32", "shape": [0, 2**64 - 1], "data_offsets": [0, 0]}}), "which no layer has"),
        (header({KEY: {"dtype": "F32", "shape": [0] * 1000, "data_offsets": [0, 0]}}), "which no layer has"),
        (header({KEY: {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}}, bytes(4)), "which no layer has"),
        (header({KEY: {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}}, bytes(4)), "do not fit together"),
        (header({KEY: {"dtype": [], "shape": [1], "data_offsets": [0, 4]}}, bytes(4)), "no tuner trains"),
        (header({"x" * 5000: {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}, bytes(4)), "characters"),
        (header({KEY: 1}), "broken"),
        (struct.pack("<Q", 2 * len(TWICE) + 1) + (TWICE + "," + TWICE[1:] + "}").encode() + bytes(4), "twice"),
    ],
)
def test_weights_that_are_something_else_are_named(data, words, copy, loaded):
    folder = copy()
    (folder / WEIGHTS).write_bytes(data)
    assert words in problems(folder, loaded)


def test_a_whole_model_and_other_models_adapters_are_named(copy, loaded):
    def whole(tensors):
        tensors.clear()
        tensors["lm_head.weight"] = loaded.model.lm_head.weight.clone()

    assert "served as a base of its own" in problems(copy(tensors=whole), loaded)
    for start, model in (
        ("model.encoder.layers.0", "Whisper"),
        ("model.layers.0", "Llama"),
        ("thinker.model.layers.0", "Omni"),
        ("visual.blocks.0", "vision"),
    ):

        def other(tensors, start=start):
            for key in list(tensors):
                tensors[f"base_model.model.{start}." + key.partition("layers.0.")[2] + key[-20:]] = tensors.pop(key)

        found = problems(copy(tensors=other, base_model_name_or_path="acme/another"), loaded)
        assert model in found
        assert "acme/another" in found


def test_twenty_thousand_unknown_tensors_are_one_sentence(copy, loaded):
    def many(tensors):
        one = next(iter(tensors.values()))
        tensors.update({f"base_model.model.{i}." + "x" * 100: one[:1].clone() for i in range(20_000)})

    report = validate(copy(tensors=many), loaded.spec, max_rank=64)
    assert len(report.problems) == 1
    assert "20000 tensors" in report.problems[0]
    assert len(report.problems[0]) < 2000


@pytest.fixture
def files(folders):
    return {name: (folders["qv"] / name).read_bytes() for name in (CONFIG, WEIGHTS)}


TRAINER = {
    "training_args.bin": PICKLE, "optimizer.pt": PICKLE, "rng_state_0.pth": PICKLE, "scheduler.pt": PICKLE,
    "tokenizer.json": b"{}", "trainer_state.json": b"{", "runs/x/events.out.tfevents.1": b"x", "latest": b"x",
    "global_step1/mp_rank_00_model_states.pt": PICKLE, "global_step1/README.md": b"no", "README.md": b"yes",
}  # fmt: skip


@pytest.mark.parametrize("make", [zipped, tarred])
@pytest.mark.parametrize("place", ["", "checkpoint-100/", "2026-11-30T10:00:00/ck/", "ünï/", "C/"])
def test_a_trainer_s_checkpoint_is_its_adapter_and_nothing_else(make, place, files, tmp_path, loaded):
    beside = {f"{place}{name}": data for name, data in TRAINER.items()}
    archive = make(
        {"README.md" if place else "notes/README.md": b"no"} | beside | {place + n: d for n, d in files.items()}
    )
    assert unpack(archive, "a.zip", tmp_path, LIMITS) == []
    assert sorted(file.name for file in tmp_path.iterdir()) == ["README.md", CONFIG, WEIGHTS]
    assert (tmp_path / "README.md").read_bytes() == b"yes"
    assert (tmp_path / WEIGHTS).read_bytes() == files[WEIGHTS]
    assert problems(tmp_path, loaded) == ""


def test_a_trainer_s_folder_is_added_and_dropped_in(files, tmp_path, registry):
    source = tmp_path / "checkpoint-7"
    for name, data in (TRAINER | files).items():
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_bytes(data)
    (tmp_path / "in").mkdir()
    assert copy_adapter(source, tmp_path / "in", LIMITS) == []
    registry.publish(tmp_path / "in", "added")
    source.rename(registry.root / "dropped")
    registry.refresh()
    assert (registry.names(), registry.broken()) == (["added", "dropped"], {})


@pytest.mark.parametrize("make", [zipped, tarred])
def test_both_kinds_of_weights_are_told_apart(make, files, tmp_path):
    (note,) = unpack(make(files | {"adapter_model.bin": PICKLE}), "a.zip", tmp_path, LIMITS)
    assert "adapter_model.bin was left aside" in note
    (tmp_path / "in").mkdir()
    with pytest.raises(AdapterRejected, match=r"adapter_model\.bin is a pickle.*safe_serialization"):
        unpack(make({CONFIG: files[CONFIG], "adapter_model.bin": PICKLE}), "a.zip", tmp_path / "in", LIMITS)
    assert list((tmp_path / "in").iterdir()) == []


@pytest.mark.parametrize("make", [zipped, tarred])
def test_more_than_one_adapter_is_refused_with_their_names(make, files, tmp_path):
    for places in (["checkpoint-100/", "checkpoint-200/"], ["", "checkpoint-100/"], ["a/", "b/"]):
        two = {place + name: data for place in places for name, data in files.items()}
        with pytest.raises(AdapterRejected) as refused:
            unpack(make(two), "a.zip", tmp_path, LIMITS)
        assert all(place in str(refused.value) for place in places)
        assert list(tmp_path.iterdir()) == []
    top = tmp_path / "out"
    for name, data in {f"checkpoint-{n}/{name}": data for n in (1, 2) for name, data in files.items()}.items():
        (top / name).parent.mkdir(parents=True, exist_ok=True)
        (top / name).write_bytes(data)
    with pytest.raises(BadRequest, match="checkpoint-1, checkpoint-2"):
        copy_adapter(top, tmp_path, LIMITS)


def test_names_that_differ_in_case_alone(files, tmp_path):
    with pytest.raises(AdapterRejected, match=r"Adapter_Config\.json"):
        unpack(zipped(files | {"Adapter_Config.json": b"{}"}), "a.zip", tmp_path, LIMITS)
    with pytest.raises(BadRequest, match="small letters"):
        unpack(zipped({"ADAPTER_CONFIG.JSON": b"{}", WEIGHTS: b""}), "a.zip", tmp_path, LIMITS)


def test_one_file_twice_in_an_archive(files, tmp_path):
    archive = tarred(files)
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as both:
        for _ in range(2):
            info = tarfile.TarInfo(CONFIG)
            both.addfile(info, io.BytesIO(b""))
    stream.seek(0)
    with pytest.raises(AdapterRejected, match="twice"):
        unpack(stream, "a.tar", tmp_path, LIMITS)
    assert archive


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"7z\xbc\xaf\x27\x1c" + bytes(100), "7-Zip"),
        (b"\xfd7zXZ\x00" + bytes(100), "xz"),
        (b"Rar!\x1a\x07" + bytes(100), "RAR"),
        (b"<html>", "web page"),
        (b"", "empty"),
        (b"PK\x03\x04" + bytes(50), "damaged or cut off"),
    ],
)
def test_archives_of_other_kinds_are_named(data, words, tmp_path):
    with pytest.raises(BadRequest, match=words):
        unpack(io.BytesIO(data), "a", tmp_path, LIMITS)


def test_a_zip_with_a_password_says_so(files, tmp_path):
    data = bytearray(zipped(files).getvalue())
    for mark, at in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):  # the flag of each entry that it is encrypted
        place = -1
        while (place := data.find(mark, place + 1)) >= 0:
            data[place + at] |= 1
    with pytest.raises(BadRequest, match="has a password"):
        unpack(io.BytesIO(bytes(data)), "a.zip", tmp_path, LIMITS)


def bloated(make):
    """The error and the most memory in MB that unpacking took."""
    tracemalloc.start()
    try:
        make()
    except OvertoneError as error:
        return error, tracemalloc.get_traced_memory()[1] / 1e6
    finally:
        tracemalloc.stop()
    raise AssertionError("it was taken")


def test_headers_do_not_unfold_in_memory(tmp_path, loaded):
    info = tarfile.TarInfo("x")
    info.pax_headers = {"comment": "a" * (100 << 20)}
    archive = tarred({}, info)
    error, megabytes = bloated(lambda: unpack(archive, "a.tar.gz", tmp_path, ArchiveLimits(4 << 30)))
    assert isinstance(error, TooLarge)
    assert megabytes < 20
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as blank:
        blank.writestr(CONFIG, b" " * (200 << 20))
        blank.writestr(WEIGHTS, b"")

    def both():
        unpack(stream, "a.zip", tmp_path, ArchiveLimits(4 << 30))
        raise BadRequest(problems(tmp_path, loaded))

    error, megabytes = bloated(both)
    assert "bytes; it may have" in str(error)
    assert megabytes < 20


def test_a_huge_list_of_files_is_not_read(tmp_path):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("x", b"")
    data = bytearray(stream.getvalue())
    directory = data.find(b"PK\x01\x02")
    end = data.find(b"PK\x05\x06")
    size = 40 << 20
    blown = data[:directory] + bytes(data[directory:end]).ljust(size, b"\0") + data[end:]
    blown[-10:-6] = struct.pack("<I", size)
    error, _ = bloated(lambda: unpack(io.BytesIO(bytes(blown)), "a.zip", tmp_path, LIMITS))
    assert isinstance(error, TooLarge)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"created": "0001-01-01T00:00:00"}, "year 1"),
        ({"created": "9999-12-31T23:59:59+00:00"}, "year 9999"),
        ({"version": -3}, "version"),
        ({"version": 2**80}, "version"),
        ({"prompt": "x" * 200_000}, "prompt"),
        ({"alpha": 1e999}, "alpha"),
        ({"targets": ["x"] * 5000}, "targets"),
        ({"name": "x" * 1000}, "name"),
    ],
)
def test_manifests_out_of_bounds_are_refused(fields, words, tmp_path):
    (tmp_path / "manifest.json").write_text(json.dumps({"schema": 1, "name": "x", "base": {"name": "x"}} | fields))
    with pytest.raises(BadRequest, match=words):
        read_manifest(tmp_path)


def test_a_manifest_without_a_time_zone_is_taken_as_utc(tmp_path):
    fields = {"schema": 1, "name": "x", "base": {"name": "x"}, "created": "2026-11-30T10:00:00"}
    (tmp_path / "manifest.json").write_bytes(codecs.BOM_UTF8 + json.dumps(fields).encode())
    assert read_manifest(tmp_path).created.timestamp() == 1796032800.0  # type: ignore[union-attr]


def test_nothing_of_the_file_is_lost_on_the_way(files, tmp_path):
    unpack(zipped({f"a/{name}": data for name, data in files.items()}), "a.zip", tmp_path, LIMITS)
    assert len(load_file(tmp_path / WEIGHTS)) == 12
