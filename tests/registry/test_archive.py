"""Archives and sources from strangers."""

import gzip
import io
import os
import tarfile
import zipfile

import pytest

from app.errors import AdapterRejected, BadRequest, Forbidden, OvertoneError, TooLarge
from app.jobs.dataset import unpack_dataset
from app.registry.archive import pack, unpack
from app.registry.archive_reader import ArchiveLimits
from app.registry.sources import fetch

LIMITS = ArchiveLimits(max_bytes=4 << 20, max_entries=20)
CONFIG = "adapter_config.json"


def zipped(entries: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> io.BytesIO:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", method) as archive:
        for name, data in entries.items():
            archive.writestr(name, data)
    stream.seek(0)
    return stream


def tarred(entries: dict[str, bytes], *extra: tarfile.TarInfo, mode: str = "w:gz") -> io.BytesIO:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode=mode) as archive:
        for name, data in entries.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
        for info in extra:
            archive.addfile(info)
    stream.seek(0)
    return stream


def names(folder):
    return sorted(file.name for file in folder.iterdir())


@pytest.mark.parametrize("make", [zipped, tarred, lambda entries: tarred(entries, mode="w")])
@pytest.mark.parametrize("prefix", ["", "my-adapter/", "a/b/"])
def test_the_adapter_s_files_come_out_wherever_they_lie(make, prefix, tmp_path):
    entries = {f"{prefix}{CONFIG}": b"{}", f"{prefix}adapter_model.safetensors": b"x" * 100, f"{prefix}notes.txt": b"n"}
    unpack(make(entries), "a.zip", tmp_path, LIMITS)
    assert names(tmp_path) == [CONFIG, "adapter_model.safetensors"]
    assert (tmp_path / "adapter_model.safetensors").read_bytes() == b"x" * 100


@pytest.mark.parametrize("name", ["../adapter_config.json", "/etc/adapter_config.json", "a/../../x", "..\\x", "C:\\x"])
@pytest.mark.parametrize("make", [zipped, tarred])
def test_paths_that_escape(make, name, tmp_path):
    (tmp_path / "in").mkdir()
    with pytest.raises(AdapterRejected, match="leaves its folder"):
        unpack(make({CONFIG: b"{}", name: b"x"}), "a.zip", tmp_path / "in", LIMITS)
    assert names(tmp_path) == ["in"]


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE])
def test_links_and_devices(kind, tmp_path):
    info = tarfile.TarInfo("adapter_model.safetensors")
    info.type, info.linkname = kind, "/etc/passwd"
    with pytest.raises(AdapterRejected, match="link or device"):
        unpack(tarred({CONFIG: b"{}"}, info), "a.tar.gz", tmp_path, LIMITS)


def test_a_link_in_a_zip(tmp_path):
    info = zipfile.ZipInfo("adapter_model.safetensors")
    info.external_attr = 0o120777 << 16
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr(info, "/etc/passwd")
    with pytest.raises(AdapterRejected, match="link"):
        unpack(stream, "a.zip", tmp_path, LIMITS)


@pytest.mark.parametrize("make", [zipped, tarred])
@pytest.mark.parametrize("name", ["adapter_model.safetensors", "left-out.txt"])
def test_bombs(make, name, tmp_path):
    bomb = make({CONFIG: b"{}", name: bytes(64 << 20)})
    assert len(bomb.getvalue()) < 1 << 20
    if make is zipped and name == "left-out.txt":  # never unpacked at all
        unpack(bomb, "a.zip", tmp_path, LIMITS)
        return
    with pytest.raises(TooLarge):
        unpack(bomb, "a.zip", tmp_path, LIMITS)
    assert sum(file.stat().st_size for file in tmp_path.iterdir()) <= LIMITS.max_bytes


@pytest.mark.parametrize("make", [zipped, tarred])
@pytest.mark.parametrize(
    ("folders", "words"),
    [
        (["/".join("f" * 40)], "40 folders deep"),
        ([f"{i}/" + "/".join("abc") for i in range(6)], "more than 20 folders"),
    ],
)
def test_folders_count_as_well(make, folders, words, tmp_path):
    """A path of 1,000 characters names 500 folders, each of which takes room that no file has."""
    entries = {f"{folder}/a.wav": b"" for folder in folders}
    with pytest.raises(OvertoneError, match=words):
        unpack_dataset(make(entries), "a.zip", tmp_path, LIMITS)
    assert sum(len(made) for _, made, _ in os.walk(tmp_path)) <= LIMITS.max_entries


def test_a_zip_of_too_many_files_is_refused_before_one_is_written(tmp_path):
    with pytest.raises(TooLarge, match="more than 20 files"):
        unpack_dataset(zipped({f"{i}.wav": b"x" for i in range(21)}), "a.zip", tmp_path, LIMITS)
    assert names(tmp_path) == []


def test_long_headers_count_as_well(tmp_path):
    info = tarfile.TarInfo("x")
    info.pax_headers = {"comment": "a" * (32 << 20)}
    with pytest.raises(TooLarge):
        unpack(tarred({}, info), "a.tar.gz", tmp_path, LIMITS)


@pytest.mark.parametrize(
    ("entries", "error", "words"),
    [
        ({f"{i}/x": b"" for i in range(30)}, TooLarge, "more than 20 files"),
        ({"a/adapter_config.json": b"{}", "b/adapter_config.json": b"{}"}, AdapterRejected, r"2 adapters \(a/, b/\)"),
        ({"adapter_model.safetensors": b""}, BadRequest, "no adapter_config.json"),
        ({CONFIG: b"{}", "adapter_model.bin": b""}, AdapterRejected, "pickle"),
    ],
)
@pytest.mark.parametrize("make", [zipped, tarred])
def test_what_is_no_adapter(make, entries, error, words, tmp_path):
    with pytest.raises(error, match=words):
        unpack(make(entries), "a.zip", tmp_path, LIMITS)


@pytest.mark.parametrize("data", [b"", b"no archive", b"PK\x03\x04" + bytes(50), gzip.compress(b"no tar")])
def test_what_is_no_archive(data, tmp_path):
    with pytest.raises(BadRequest, match="archive"):
        unpack(io.BytesIO(data), "a.zip", tmp_path, LIMITS)


@pytest.mark.parametrize(
    "make", [zipped, lambda e: zipped(e, zipfile.ZIP_LZMA), lambda e: zipped(e, zipfile.ZIP_BZIP2), tarred]
)
def test_damage_anywhere_is_refused_in_words(make, tmp_path):
    whole = make({CONFIG: b"{}", "adapter_model.safetensors": bytes(range(256)) * 40}).getvalue()
    for at in range(0, len(whole), 3):
        for damaged in (whole[:at], *(whole[:at] + bytes([whole[at] ^ flip]) + whole[at + 1 :] for flip in (1, 0xFF))):
            try:
                unpack(io.BytesIO(damaged), "a.zip", tmp_path, LIMITS)
            except OvertoneError as error:
                assert error.status in (413, 422)  # noqa: PT017, damage that does no harm may pass


def test_packing_is_undone_by_unpacking(folders, tmp_path):
    stream = io.BytesIO()
    pack(folders["qv"], stream)
    stream.seek(0)
    unpack(stream, "qv.zip", tmp_path, LIMITS)
    for name in (CONFIG, "adapter_model.safetensors"):
        assert (tmp_path / name).read_bytes() == (folders["qv"] / name).read_bytes()


def get(source, target, roots=(), prefixes=()):
    target.mkdir(exist_ok=True)
    fetch(source, target, roots=roots, prefixes=prefixes, limits=LIMITS)


def test_folders_under_a_root_alone(folders, tmp_path):
    root = folders["qv"].parent
    get(str(folders["qv"]), tmp_path / "in", roots=[root])
    assert CONFIG in names(tmp_path / "in")
    get(f"file://{folders['qv']}", tmp_path / "in", roots=[root])
    for source in (str(folders["qv"]), f"{tmp_path}/../x", "/etc"):
        with pytest.raises(Forbidden):
            get(source, tmp_path / "out", roots=[tmp_path / "elsewhere"])


def test_a_link_leads_out_of_no_root(folders, tmp_path):
    root = tmp_path / "root"
    root.mkdir()
    (root / "adapter").symlink_to(folders["qv"])
    with pytest.raises(Forbidden):
        get(str(root / "adapter"), tmp_path / "out", roots=[root])
    (root / "real").mkdir()
    (root / "real" / CONFIG).symlink_to(folders["qv"] / CONFIG)
    with pytest.raises(AdapterRejected, match="link"):
        get(str(root / "real"), tmp_path / "out", roots=[root])


@pytest.mark.parametrize("source", ["acme/x", "hf://acme-evil/x", "s3://bucket/x", "hf://acme/../evil/x", "http://x/y"])
def test_sources_that_are_not_allowed(source, tmp_path):
    prefixes = ["hf://acme-corp", "s3://bucket-two", "hf://acme"] if "evil" in source else ["hf://other"]
    with pytest.raises(Forbidden, match="OVERTONE_ADAPTER_SOURCES"):
        get(source, tmp_path / "out", prefixes=prefixes)


def test_any_store_that_fsspec_speaks(folders, tmp_path):
    import fsspec

    system = fsspec.filesystem("memory")
    for name in (CONFIG, "adapter_model.safetensors"):
        system.pipe(f"/store/qv/{name}", (folders["qv"] / name).read_bytes())
    get("memory://store/qv", tmp_path / "in", prefixes=["memory://store"])
    assert names(tmp_path / "in") == [CONFIG, "adapter_model.safetensors"]
    with pytest.raises(AdapterRejected, match="no adapter_config"):
        get("memory://store/none", tmp_path / "out", prefixes=["memory://store"])


def test_an_allowed_store_leads_to_no_other(folders, tmp_path):
    """fsspec reads `a::b` as the store a over the place b."""
    for source in (f"memory://store/x::file://{folders['qv']}", f"memory://store::file://{folders['qv']}"):
        with pytest.raises(Forbidden):
            get(source, tmp_path / "out", prefixes=["memory://store"])


def test_a_store_that_tells_no_size_is_limited_all_the_same(tmp_path, monkeypatch):
    import fsspec

    system = fsspec.filesystem("memory")
    system.pipe(f"/large/{CONFIG}", b"{}")
    system.pipe("/large/adapter_model.safetensors", bytes(LIMITS.max_bytes + 1))
    monkeypatch.setattr(type(system), "size", lambda self, path: None)
    with pytest.raises(TooLarge, match="OVERTONE_MAX_ADAPTER_MB"):
        get("memory://large", tmp_path / "in", prefixes=["memory://large"])
