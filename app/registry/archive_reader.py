"""Archives from strangers: only plain files, no path that leaves the folder, limits that count unpacked bytes."""

import gzip
import lzma
import re
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, BinaryIO, cast

from app.errors import BadRequest, StorageError, TooLarge
from app.registry.adapter_files.recognise import SAMPLE, kind_of

_BLOCK = 1 << 20
_LONGEST_NAME = 255  # bytes; what file systems take
_LARGEST_HEADER = 64 << 10  # bytes of one long name or extended header of a tar
_DEEPEST = 32  # folders above a file
_LARGEST_DIRECTORY = 32 << 20  # bytes of a zip's list of its files, which zipfile reads at once
_DRIVE = re.compile(r"[A-Za-z]:/")
# Errors of zipfile, tarfile, gzip and the decompressors for damaged data
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
    """``max_bytes``: of all unpacked files together; ``setting``: what the operator can raise.

    ``max_entries``: files, and folders that are made for them.
    """

    max_bytes: int
    max_entries: int = 5000  # a trainer's checkpoint has hundreds
    setting: str = "OVERTONE_MAX_ADAPTER_MB"

    def too_many(self) -> TooLarge:
        return TooLarge(f"The archive holds more than {self.max_entries} files; send only what is needed.")

    def too_many_folders(self) -> TooLarge:
        return TooLarge(f"The archive holds more than {self.max_entries} folders; send fewer of them.")

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
        raise BadRequest(_reason(file, filename, error)) from None


def _reason(file: BinaryIO, filename: str, error: Exception) -> str:
    """The reason why no archive could be read from a file, with its kind."""
    name = repr(filename[:80])
    if "password required" in str(error) or "is encrypted" in str(error):
        return f"{name} has a password; send it without."
    file.seek(0, 2)
    size = file.tell()
    file.seek(0)
    head = file.read(SAMPLE)
    if head[:2] in (b"PK", b"\x1f\x8b") or head[257:262] == b"ustar":
        what = str(error)[:100] or type(error).__name__
        return f"{name} is no readable .zip or .tar.gz archive: it is damaged or cut off ({what})."
    kind = kind_of(head, size)
    return f"{name} is no readable .zip or .tar.gz archive{f': it is {kind}' if kind else ''}; send one of these."


def _extract(file: BinaryIO, limits: ArchiveLimits, place: Callable[[PurePosixPath], Path | None]) -> None:
    bytes_left = limits.max_bytes
    folders: set[PurePosixPath] = set()
    for count, (name, opened) in enumerate(_entries(file, limits), start=1):
        if count > limits.max_entries:
            raise limits.too_many()
        path = PurePosixPath(name.replace("\\", "/"))
        _refuse_unsafe(path)
        folders.update(path.parents[:-1])  # the last one is the destination itself
        if len(folders) > limits.max_entries:
            raise limits.too_many_folders()
        target = place(path)
        if target is not None:
            with opened() as source, target.open("wb") as written:
                bytes_left -= copy_stream(source, written, bytes_left, limits)


def copy_stream(source: IO[bytes], target: BinaryIO, max_bytes: int, limits: ArchiveLimits) -> int:
    """Copy all of ``source``; the number of bytes. Raises TooLarge beyond ``max_bytes``: headers may lie."""
    copied = 0
    while block := source.read(_BLOCK):
        copied += len(block)
        if copied > max_bytes:
            raise limits.too_large()
        target.write(block)
    return copied


def _refuse_unsafe(path: PurePosixPath) -> None:
    if path.is_absolute() or ".." in path.parts or _DRIVE.match(str(path)) or not path.name:
        raise UnsafeArchive(f"The archive holds the path {str(path)[:80]!r}, which leaves its folder")
    if any(len(part.encode(errors="replace")) > _LONGEST_NAME for part in path.parts) or len(str(path)) > 1000:
        raise UnsafeArchive(f"The archive holds a path that is too long: {str(path)[:80]!r}…")
    if len(path.parts) > _DEEPEST + 1:
        raise UnsafeArchive(f"The archive holds a file {len(path.parts) - 1} folders deep; {_DEEPEST} are the most")


class _Opener:
    """Opens one entry on call."""

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
    """Names of the plain files of an archive, each with a function that opens it."""
    if zipfile.is_zipfile(file):
        file.seek(0)
        yield from _zip_entries(file, limits)
    else:
        file.seek(0)
        yield from _tar_entries(file, limits)


def _zip_entries(file: BinaryIO, limits: ArchiveLimits) -> Iterator[tuple[str, _Opener]]:
    with zipfile.ZipFile(cast(BinaryIO, _Pieces(file))) as archive:
        entries = [entry for entry in archive.infolist() if not entry.is_dir()]
        if len(entries) > limits.max_entries:  # before any is written
            raise limits.too_many()
        for entry in entries:
            if (entry.external_attr >> 16) & 0o170000 == 0o120000:
                raise UnsafeArchive(f"The archive holds the link {entry.filename[:80]!r}; send plain files")
            if entry.flag_bits & 0x1:
                raise RuntimeError("the archive is encrypted")
            yield entry.filename, _Opener(archive, entry)


def _tar_entries(file: BinaryIO, limits: ArchiveLimits) -> Iterator[tuple[str, _Opener]]:
    """Read as a stream through a counter: entries that are left out and long headers count as well."""
    opened = gzip.open(file) if file.read(2) == b"\x1f\x8b" else file  # noqa: SIM115, the caller closes the file
    file.seek(0)
    counted = cast(BinaryIO, _Counter(cast(BinaryIO, opened), limits))
    with tarfile.open(fileobj=counted, mode="r|", tarinfo=_BoundedTarInfo) as archive:
        for count, entry in enumerate(archive, start=1):
            if count > 2 * limits.max_entries:  # folders among them
                raise limits.too_many()
            if entry.isdir():
                continue
            if not entry.isfile():
                raise UnsafeArchive(f"The archive holds the link or device {entry.name[:80]!r}; send plain files")
            yield entry.name, _Opener(archive, entry)


class _BoundedTarInfo(tarfile.TarInfo):
    """Headers that tarfile reads into memory whole are small, or refused."""

    def _proc_member(self, archive: tarfile.TarFile) -> "tarfile.TarInfo":
        if self.type == tarfile.GNUTYPE_SPARSE:
            raise UnsafeArchive(f"The archive holds the sparse file {self.name[:80]!r}; send plain files")
        if not self.isfile() and self.size > _LARGEST_HEADER and not self.isdir():
            raise TooLarge(f"The archive has a header of {self.size:,} bytes; it may have {_LARGEST_HEADER:,}.")
        found: tarfile.TarInfo = super()._proc_member(archive)  # type: ignore[misc]
        return found

    def _proc_gnusparse_10(self, *_: object) -> None:
        raise UnsafeArchive(f"The archive holds the sparse file {self.name[:80]!r}; send plain files")


class _Pieces:
    """A file that refuses large reads."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.seek, self.tell, self.close = file.seek, file.tell, lambda: None

    def seekable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        if size > _LARGEST_DIRECTORY:
            raise TooLarge(f"The archive's list of files has {size:,} bytes; send only what is needed.")
        return self._file.read(size if size >= 0 else _LARGEST_DIRECTORY)


class _Counter:
    """A stream that raises TooLarge after as many bytes as the limits allow."""

    def __init__(self, stream: BinaryIO, limits: ArchiveLimits) -> None:
        self._stream = stream
        self._limits = limits
        self._bytes_left = limits.max_bytes

    def read(self, size: int) -> bytes:
        data = self._stream.read(min(size, _BLOCK))
        self._bytes_left -= len(data)
        if self._bytes_left < 0:
            raise self._limits.too_large()
        return data
