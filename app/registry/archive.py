"""Adapters in archives and folders: their own files are taken out of one, or packed into one."""

import shutil
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from app.errors import AdapterRejected, BadRequest
from app.models import head
from app.registry.adapter_files.config import FILE as CONFIG
from app.registry.adapter_files.file_names import CONFIGS, KEPT, PICKLE
from app.registry.adapter_files.report import missing_weights
from app.registry.adapter_files.weights import WEIGHTS
from app.registry.archive_reader import ArchiveLimits, UnsafeArchive, extract

_WHOLE_MODEL = {"model.safetensors", "model.safetensors.index.json", "pytorch_model.bin"}
_NOTED = {name.lower() for name in KEPT} | {PICKLE, *_WHOLE_MODEL}
_MOST_FOLDERS = 100
NO_ADAPTER = f"no {CONFIG}, which PEFT's save_pretrained writes, and no {head.CONFIG} of a classification head"


def unpack(file: BinaryIO, filename: str, destination: Path, limits: ArchiveLimits) -> list[str]:
    """Unpack an adapter's own files from a .zip or .tar.gz, from any folder in it; notes on files that were left out.

    Other files, such as a trainer's state, are not read. Raises BadRequest for no archive,
    TooLarge beyond the limits, AdapterRejected for paths that escape, links, and more than one adapter or file to
    choose from, StorageError when the disk refuses.
    """
    found = _Found(destination)
    try:
        extract(file, filename, limits, found.place)
    except UnsafeArchive as error:
        raise AdapterRejected(str(error)) from None
    with found.staging():
        chosen = found.choose()
        for name, staged in chosen.items():
            staged.rename(destination / name)
    return found.notes(set(chosen))


class _Found:
    """The adapter files of an archive by folder. The adapter's folder is chosen after the whole archive was read."""

    def __init__(self, destination: Path) -> None:
        self._destination = destination
        self._staging: Path | None = None
        self._folders: dict[str, dict[str, Path]] = {}
        self._others: dict[str, set[str]] = {}

    def place(self, path: PurePosixPath) -> Path | None:
        folder, name = str(path.parent), path.name
        if name not in KEPT:
            if len(self._others) <= _MOST_FOLDERS and name.lower() in _NOTED:
                self._others.setdefault(folder, set()).add(name)
            return None
        held = self._folders.setdefault(folder, {})
        if len(self._folders) > _MOST_FOLDERS:
            raise AdapterRejected(f"the archive has {name} in more than {_MOST_FOLDERS} folders; send one adapter")
        if name in held:
            raise AdapterRejected(f"the archive holds {str(path)[:200]} twice: it is not known which one was trained")
        if self._staging is None:
            self._staging = Path(tempfile.mkdtemp(prefix=".unpacked-", dir=self._destination))
        held[name] = self._staging / f"{len(self._folders)}-{name}"
        return held[name]

    @contextmanager
    def staging(self) -> Iterator[None]:
        try:
            yield
        finally:
            if self._staging is not None:
                shutil.rmtree(self._staging, ignore_errors=True)

    def choose(self) -> dict[str, Path]:
        """The files of the one adapter. Raises BadRequest for none, AdapterRejected for several."""
        adapters = sorted(folder for folder, held in self._folders.items() if not held.keys().isdisjoint(CONFIGS))
        if not adapters:
            raise BadRequest(f"The archive holds {NO_ADAPTER}.{self._instead()}")
        if len(adapters) > 1:
            listed = ", ".join(f"{folder[:200]}/" for folder in adapters[:5])
            more = f" and {len(adapters) - 5} more" if len(adapters) > 5 else ""
            raise AdapterRejected(f"the archive holds {len(adapters)} adapters ({listed}{more}); send one at a time")
        self._refuse_other_spellings(adapters[0])
        others = sorted(self._others.get(adapters[0], ()))
        if others and WEIGHTS not in self._folders[adapters[0]] and CONFIG in self._folders[adapters[0]]:
            raise AdapterRejected(missing_weights(WEIGHTS, others))
        return self._folders[adapters[0]]

    def notes(self, chosen: set[str]) -> list[str]:
        """Notes on files that were left out and that the sender may have meant."""
        if WEIGHTS in chosen and any(PICKLE in names for names in self._others.values()):
            return [f"{PICKLE} was left aside unread: {WEIGHTS} is the adapter"]
        return []

    def _refuse_other_spellings(self, folder: str) -> None:
        for name in self._others.get(folder, ()):
            exact = next((kept for kept in KEPT if kept.lower() == name.lower()), None)
            if exact in self._folders[folder]:
                raise AdapterRejected(f"the archive holds {exact} and {name} in one folder; keep one of them")

    def _instead(self) -> str:
        names = {name for found in self._others.values() for name in found}
        if other := next((name for name in names if name.lower() in CONFIGS), None):
            return f" It holds {other!r}: write it in small letters."
        if names & _WHOLE_MODEL:
            return f" It holds {sorted(names & _WHOLE_MODEL)[0]}: a whole model is served by OVERTONE_MODEL."
        return ""


def pack(folder: Path, target: BinaryIO) -> None:
    """Write an adapter's own files as a zip."""
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in sorted(KEPT):
            if (folder / name).is_file():
                archive.write(folder / name, name)


def holds_adapter(folder: Path) -> bool:
    """True if the folder has the configuration of an adapter or of a classification head."""
    return any((folder / name).is_file() for name in CONFIGS)


def copy_adapter(source: Path, destination: Path, limits: ArchiveLimits) -> list[str]:
    """Copy the adapter's own files from a folder, within the same limits; notes, and errors, as of `unpack`."""
    if not holds_adapter(source):
        raise BadRequest(f"That folder holds {NO_ADAPTER}.{_below(source)}")
    bytes_left = limits.max_bytes
    for name in KEPT:
        file = source / name
        if file.is_symlink():
            raise AdapterRejected(f"{name} is a link; put the file itself there")
        if file.is_file():
            bytes_left -= file.stat().st_size
            if bytes_left < 0:
                raise limits.too_large()
            shutil.copyfile(file, destination / name)
    if (source / CONFIG).is_file() and not (source / WEIGHTS).is_file():
        raise AdapterRejected(missing_weights(WEIGHTS, sorted(file.name for file in source.iterdir())))
    return [f"{PICKLE} was left aside unread: {WEIGHTS} is the adapter"] if (source / PICKLE).is_file() else []


def _below(source: Path) -> str:
    """A sentence that names subfolders with adapters, such as a trainer's checkpoints; empty without any."""
    found = sorted(folder.name for folder in source.iterdir() if folder.is_dir() and holds_adapter(folder))
    return f" These within it do: {', '.join(found[:5])}; name one of them." if found else ""
