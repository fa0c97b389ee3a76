"""An adapter in an archive or a folder: its own files out of it, and into one."""

import shutil
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from app.errors import AdapterRejected, BadRequest
from app.model import head
from app.registry.config import FILE as CONFIG
from app.registry.entries import ArchiveLimits, UnsafeArchive, extract
from app.registry.manifest import FILE
from app.registry.report import missing_weights
from app.registry.weights import WEIGHTS

CONFIGS = (CONFIG, head.CONFIG)  # one of them in every adapter
OWN = (CONFIG, WEIGHTS, head.CONFIG, head.WEIGHTS)
KEPT = {*OWN, FILE, "README.md"}
PICKLE = "adapter_model.bin"  # what PEFT wrote before safetensors
_WHOLE_MODEL = {"model.safetensors", "model.safetensors.index.json", "pytorch_model.bin"}
_TELLING = {name.lower() for name in KEPT} | {PICKLE, *_WHOLE_MODEL}
_MOST_FOLDERS = 100
NO_ADAPTER = f"no {CONFIG}, which PEFT's save_pretrained writes, and no {head.CONFIG} of a classification head"


def unpack(file: BinaryIO, filename: str, destination: Path, limits: ArchiveLimits) -> list[str]:
    """Unpack an adapter's own files from a .zip or .tar.gz, whatever folder they lie in; notes on what was left out.

    All else that lies there, such as a trainer's own state, is left aside unread. Raises BadRequest for no archive,
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
    """The adapter files of an archive by folder: which folder is the adapter's shows when all have been seen."""

    def __init__(self, destination: Path) -> None:
        self._destination = destination
        self._staging: Path | None = None
        self._folders: dict[str, dict[str, Path]] = {}
        self._others: dict[str, set[str]] = {}

    def place(self, path: PurePosixPath) -> Path | None:
        folder, name = str(path.parent), path.name
        if name not in KEPT:
            if len(self._others) <= _MOST_FOLDERS and name.lower() in _TELLING:
                self._others.setdefault(folder, set()).add(name)
            return None
        held = self._folders.setdefault(folder, {})
        if len(self._folders) > _MOST_FOLDERS:
            raise AdapterRejected(f"the archive has {name} in more than {_MOST_FOLDERS} folders; send one adapter")
        if name in held:
            raise AdapterRejected(f"the archive holds {str(path)[:200]} twice: which one was trained cannot be told")
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
            told = ", ".join(f"{folder[:200]}/" for folder in adapters[:5])
            more = f" and {len(adapters) - 5} more" if len(adapters) > 5 else ""
            raise AdapterRejected(f"the archive holds {len(adapters)} adapters ({told}{more}); send one at a time")
        self._refuse_other_spellings(adapters[0])
        others = sorted(self._others.get(adapters[0], ()))
        if others and WEIGHTS not in self._folders[adapters[0]] and CONFIG in self._folders[adapters[0]]:
            raise AdapterRejected(missing_weights(WEIGHTS, others))
        return self._folders[adapters[0]]

    def notes(self, chosen: set[str]) -> list[str]:
        """What was left out although somebody might have meant it."""
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
    return any((folder / name).is_file() for name in CONFIGS)


def copy_adapter(source: Path, destination: Path, limits: ArchiveLimits) -> list[str]:
    """The adapter's own files from a folder, within the same limits; notes as `unpack` makes them."""
    if not holds_adapter(source):
        raise BadRequest(f"That folder holds {NO_ADAPTER}.{_below(source)}")
    room = limits.max_bytes
    for name in KEPT:
        file = source / name
        if file.is_symlink():
            raise AdapterRejected(f"{name} is a link; put the file itself there")
        if file.is_file():
            room -= file.stat().st_size
            if room < 0:
                raise limits.too_large()
            shutil.copyfile(file, destination / name)
    if (source / CONFIG).is_file() and not (source / WEIGHTS).is_file():
        raise AdapterRejected(missing_weights(WEIGHTS, sorted(file.name for file in source.iterdir())))
    return [f"{PICKLE} was left aside unread: {WEIGHTS} is the adapter"] if (source / PICKLE).is_file() else []


def _below(source: Path) -> str:
    """The folders within one that hold adapters, as a trainer's checkpoints lie."""
    found = sorted(folder.name for folder in source.iterdir() if folder.is_dir() and holds_adapter(folder))
    return f" These within it do: {', '.join(found[:5])}; name one of them." if found else ""
