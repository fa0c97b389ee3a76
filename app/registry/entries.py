"""What strangers send as an archive: plain files alone, no path that escapes, limits that count real bytes."""

import gzip
import lzma
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, BinaryIO, cast

from app.errors import BadRequest, StorageError, TooLarge

_BLOCK = 1 << 20
_LONGEST_NAME = 255  # bytes; what file systems take
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
    """``max_bytes``: of all unpacked files together; ``setting``: what the operator can raise."""

    max_bytes: int
    max_entries: int = 200
    setting: str = "OVERTONE_MAX_ADAPTER_MB"

    def too_large(self) -> TooLarge:
        return TooLarge(f"The unpacked files exceed this server's limit ({self.setting}).")


class UnsafeArchive(BadRequest):
    """A path that leaves its folder, a link or a device."""


def extract(
    file: BinaryIO, filename: str, limits: ArchiveLimits, place: Callable[[PurePosixPath], Path | None]
) -> None:
    """Write the plain files of a .zip or .tar.gz where ``place`` says; None leaves one out.

    Raises BadRequest for no archive, TooLarge beyond the limits, UnsafeArchive for paths that escape and
    links, StorageError when the disk refuses.
    """
    try:
        _extract(file, limits, place)
    except _DAMAGE as error:
        if isinstance(error, OSError) and error.errno is not None:  # damaged data has no errno
            raise StorageError(
                f"The files could not be written ({error.strerror}); the operator can free space."
            ) from error
        words = str(error)[:100] or type(error).__name__
        raise BadRequest(f"{filename[:80]!r} is no readable .zip or .tar.gz archive ({words}).") from None


def _extract(file: BinaryIO, limits: ArchiveLimits, place: Callable[[PurePosixPath], Path | None]) -> None:
    room = limits.max_bytes
    for count, (name, opened) in enumerate(_entries(file, limits), start=1):
        if count > limits.max_entries:
            raise TooLarge(f"The archive holds more than {limits.max_entries} files; send only what is needed.")
        path = PurePosixPath(name.replace("\\", "/"))
        _refuse_unsafe(path)
        target = place(path)
        if target is not None:
            with opened() as source, target.open("wb") as written:
                room -= copy_stream(source, written, room, limits)


def copy_stream(source: IO[bytes], target: BinaryIO, room: int, limits: ArchiveLimits) -> int:
    """Copy all of ``source``; the number of bytes. Raises TooLarge beyond ``room``: headers are not believed."""
    copied = 0
    while block := source.read(_BLOCK):
        copied += len(block)
        if copied > room:
            raise limits.too_large()
        target.write(block)
    return copied


def _refuse_unsafe(path: PurePosixPath) -> None:
    if path.is_absolute() or ".." in path.parts or ":" in str(path) or not path.name:
        raise UnsafeArchive(f"The archive holds the path {str(path)[:80]!r}, which leaves its folder")
    if any(len(part.encode(errors="replace")) > _LONGEST_NAME for part in path.parts) or len(str(path)) > 1000:
        raise UnsafeArchive(f"The archive holds a path that is too long: {str(path)[:80]!r}…")


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
                raise UnsafeArchive(f"The archive holds the link {entry.filename[:80]!r}; send plain files")
            yield entry.filename, _Opener(archive, entry)


def _tar_entries(file: BinaryIO, limits: ArchiveLimits) -> Iterator[tuple[str, _Opener]]:
    """Read as a stream through a counter: entries that are left out and long headers count as well."""
    opened = gzip.open(file) if file.read(2) == b"\x1f\x8b" else file  # noqa: SIM115, the caller closes the file
    file.seek(0)
    counted = cast(BinaryIO, _Counter(cast(BinaryIO, opened), limits))
    with tarfile.open(fileobj=counted, mode="r|") as archive:
        for entry in archive:
            if entry.isdir():
                continue
            if not entry.isfile():
                raise UnsafeArchive(f"The archive holds the link or device {entry.name[:80]!r}; send plain files")
            yield entry.name, _Opener(archive, entry)


class _Counter:
    """A stream that gives as many bytes as the limits allow and no more."""

    def __init__(self, stream: BinaryIO, limits: ArchiveLimits) -> None:
        self._stream = stream
        self._limits = limits
        self._room = limits.max_bytes

    def read(self, size: int) -> bytes:
        data = self._stream.read(min(size, _BLOCK))
        self._room -= len(data)
        if self._room < 0:
            raise self._limits.too_large()
        return data
