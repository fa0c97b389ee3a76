"""Uploaded archives: unpacked with limits that count real bytes, and nothing but plain files."""

import gzip
import lzma
import shutil
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, BinaryIO, cast

from app.errors import AdapterRejected, BadRequest, TooLarge
from app.registry.config import FILE as CONFIG
from app.registry.manifest import FILE
from app.registry.validate import PICKLES
from app.registry.weights import WEIGHTS

KEPT = {CONFIG, WEIGHTS, FILE, "README.md"}
_BLOCK = 1 << 20
_TOO_LARGE = "The unpacked adapter exceeds this server's limit (OVERTONE_MAX_ADAPTER_MB)."
# What zipfile, tarfile, gzip and the decompressors raise for damaged data
_DAMAGE = (
    zipfile.BadZipFile,
    tarfile.TarError,
    EOFError,
    OSError,
    zlib.error,
    lzma.LZMAError,
    NotImplementedError,
    RuntimeError,
    ValueError,
)


@dataclass(frozen=True)
class ArchiveLimits:
    """``max_bytes``: of all unpacked files together."""

    max_bytes: int
    max_entries: int = 200


def unpack(file: BinaryIO, filename: str, destination: Path, limits: ArchiveLimits) -> None:
    """Unpack an adapter's own files from a .zip or .tar.gz, whatever folder they lie in; the rest is left out.

    Raises BadRequest for no archive, TooLarge beyond the limits, AdapterRejected for paths that escape,
    links and pickles.
    """
    try:
        found = _unpack(file, destination, limits)
    except _DAMAGE as error:
        words = str(error)[:100] or type(error).__name__
        raise BadRequest(f"{filename[:80]!r} is no readable .zip or .tar.gz archive ({words}).") from None
    if CONFIG not in found:
        raise BadRequest(f"The archive holds no {CONFIG}; send the folder that PEFT's save_pretrained wrote.")


def _unpack(file: BinaryIO, destination: Path, limits: ArchiveLimits) -> set[str]:
    """The names of the files that were kept."""
    room = limits.max_bytes
    found: set[str] = set()
    for count, (name, opened) in enumerate(_entries(file, limits), start=1):
        if count > limits.max_entries:
            raise TooLarge(f"The archive holds more than {limits.max_entries} files; send the adapter's own alone.")
        path = PurePosixPath(name.replace("\\", "/"))
        _refuse_unsafe(path)
        if path.name not in KEPT:
            continue
        if path.name in found:
            raise BadRequest(f"The archive holds {path.name} twice; send one adapter at a time.")
        found.add(path.name)
        with opened() as source, (destination / path.name).open("wb") as target:
            room -= copy_stream(source, target, room)
    return found


def pack(folder: Path, target: BinaryIO) -> None:
    """Write an adapter's files as a zip."""
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(folder.iterdir()):
            if file.is_file():
                archive.write(file, file.name)


def _refuse_unsafe(path: PurePosixPath) -> None:
    if path.is_absolute() or ".." in path.parts or ":" in str(path):
        raise AdapterRejected(f"The archive holds the path {str(path)[:80]!r}, which leaves its folder")
    if path.suffix in PICKLES:
        raise AdapterRejected(f"{path.name[:80]} is a pickle, which can run code; save the adapter as safetensors")


def copy_stream(source: IO[bytes], target: BinaryIO, room: int) -> int:
    """Copy all of ``source``; the number of bytes. Raises TooLarge beyond ``room``: headers are not believed."""
    copied = 0
    while block := source.read(_BLOCK):
        copied += len(block)
        if copied > room:
            raise TooLarge(_TOO_LARGE)
        target.write(block)
    return copied


class _Opener:
    """Opens one entry when it is wanted."""

    def __init__(self, archive: zipfile.ZipFile | tarfile.TarFile, entry: zipfile.ZipInfo | tarfile.TarInfo) -> None:
        self._archive = archive
        self._entry = entry

    @contextmanager
    def __call__(self) -> Iterator[IO[bytes]]:
        if isinstance(self._archive, zipfile.ZipFile):
            assert isinstance(self._entry, zipfile.ZipInfo)
            opened: IO[bytes] | None = self._archive.open(self._entry)
        else:
            assert isinstance(self._entry, tarfile.TarInfo)
            opened = self._archive.extractfile(self._entry)
        assert opened is not None
        with opened:
            yield opened


def _entries(file: BinaryIO, limits: ArchiveLimits) -> Iterator[tuple[str, _Opener]]:
    """Plain files of an archive."""
    if zipfile.is_zipfile(file):
        file.seek(0)
        yield from _zip_entries(file)
    else:
        file.seek(0)
        yield from _tar_entries(file, limits)


def _zip_entries(file: BinaryIO) -> Iterator[tuple[str, _Opener]]:
    with zipfile.ZipFile(file) as archive:
        for entry in archive.infolist():
            if entry.is_dir():
                continue
            if (entry.external_attr >> 16) & 0o170000 == 0o120000:
                raise AdapterRejected(f"The archive holds the link {entry.filename[:80]!r}; send plain files")
            yield entry.filename, _Opener(archive, entry)


def _tar_entries(file: BinaryIO, limits: ArchiveLimits) -> Iterator[tuple[str, _Opener]]:
    """Read as a stream through a counter: entries that are left out and long headers count as well."""
    opened = gzip.open(file) if file.read(2) == b"\x1f\x8b" else file  # noqa: SIM115, the caller closes the file
    file.seek(0)
    counted = cast(BinaryIO, _Counter(cast(BinaryIO, opened), limits.max_bytes))
    with tarfile.open(fileobj=counted, mode="r|") as archive:
        for entry in archive:
            if entry.isdir():
                continue
            if not entry.isfile():
                raise AdapterRejected(f"The archive holds the link or device {entry.name[:80]!r}; send plain files")
            yield entry.name, _Opener(archive, entry)


class _Counter:
    """A stream that gives ``room`` bytes and no more."""

    def __init__(self, stream: BinaryIO, room: int) -> None:
        self._stream = stream
        self._room = room

    def read(self, size: int) -> bytes:
        data = self._stream.read(min(size, _BLOCK))
        self._room -= len(data)
        if self._room < 0:
            raise TooLarge(_TOO_LARGE)
        return data


def copy_adapter(source: Path, destination: Path, limits: ArchiveLimits) -> None:
    """The adapter's own files from a folder, within the same limits."""
    if not (source / CONFIG).is_file():
        raise BadRequest(f"There is no {CONFIG} in that folder.")
    room = limits.max_bytes
    for name in KEPT:
        file = source / name
        if file.is_symlink():
            raise AdapterRejected(f"{name} is a link; put the file itself there")
        if file.is_file():
            room -= file.stat().st_size
            if room < 0:
                raise TooLarge(_TOO_LARGE)
            shutil.copyfile(file, destination / name)
