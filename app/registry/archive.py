"""Uploaded archives: unpacked with limits that count real bytes, and nothing but plain files."""

import shutil
import tarfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, BinaryIO

from app.errors import AdapterRejected, BadRequest, TooLarge
from app.registry.manifest import FILE
from app.registry.validate import PICKLES
from app.registry.weights import CONFIG, WEIGHTS

KEPT = {CONFIG, WEIGHTS, FILE, "README.md"}
_BLOCK = 1 << 20


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
    room = limits.max_bytes
    found: set[str] = set()
    for count, (name, opened) in enumerate(_entries(file, filename), start=1):
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
            room -= _copy(source, target, room)
    if CONFIG not in found:
        raise BadRequest(f"The archive holds no {CONFIG}; send the folder that PEFT's save_pretrained wrote.")


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


def _copy(source: IO[bytes], target: BinaryIO, room: int) -> int:
    """Copy at most ``room`` bytes; the number copied. Headers are not believed."""
    copied = 0
    while block := source.read(_BLOCK):
        copied += len(block)
        if copied > room:
            raise TooLarge("The unpacked adapter exceeds this server's limit; see OVERTONE_MAX_ADAPTER_MB.")
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


def _entries(file: BinaryIO, filename: str) -> Iterator[tuple[str, _Opener]]:
    """Plain files of an archive. Damage shows while reading, hence the wide net."""
    try:
        if zipfile.is_zipfile(file):
            file.seek(0)
            yield from _zip_entries(file)
        else:
            file.seek(0)
            yield from _tar_entries(file)
    except (zipfile.BadZipFile, tarfile.TarError, EOFError, OSError, NotImplementedError, RuntimeError) as error:
        raise BadRequest(
            f"{filename[:80]!r} is no readable .zip or .tar.gz archive ({str(error)[:100] or 'damaged'})."
        ) from None


def _zip_entries(file: BinaryIO) -> Iterator[tuple[str, _Opener]]:
    with zipfile.ZipFile(file) as archive:
        for entry in archive.infolist():
            if entry.is_dir():
                continue
            if (entry.external_attr >> 16) & 0o170000 == 0o120000:
                raise AdapterRejected(f"The archive holds the link {entry.filename[:80]!r}; send plain files")
            yield entry.filename, _Opener(archive, entry)


def _tar_entries(file: BinaryIO) -> Iterator[tuple[str, _Opener]]:
    with tarfile.open(fileobj=file, mode="r:*") as archive:
        for entry in archive:
            if entry.isdir():
                continue
            if not entry.isfile():
                raise AdapterRejected(f"The archive holds the link or device {entry.name[:80]!r}; send plain files")
            yield entry.name, _Opener(archive, entry)


def copy_adapter(source: Path, destination: Path, limits: ArchiveLimits) -> None:
    """The adapter's own files from a folder, within the same limits."""
    if not (source / CONFIG).is_file():
        raise BadRequest(f"There is no {CONFIG} in that folder.")
    room = limits.max_bytes
    for name in KEPT:
        if (file := source / name).is_file():
            room -= file.stat().st_size
            if room < 0:
                raise TooLarge("The adapter exceeds this server's limit; see OVERTONE_MAX_ADAPTER_MB.")
            shutil.copyfile(file, destination / name)
