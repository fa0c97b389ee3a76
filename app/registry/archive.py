"""An adapter in an archive or a folder: its own files out of it, and into one."""

import shutil
import zipfile
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from app.errors import AdapterRejected, BadRequest
from app.model import head
from app.registry.config import FILE as CONFIG
from app.registry.entries import ArchiveLimits, UnsafeArchive, extract
from app.registry.manifest import FILE
from app.registry.report import PICKLES
from app.registry.weights import WEIGHTS

CONFIGS = (CONFIG, head.CONFIG)  # one of them in every adapter
OWN = (CONFIG, WEIGHTS, head.CONFIG, head.WEIGHTS)
KEPT = {*OWN, FILE, "README.md"}
NO_ADAPTER = f"no {CONFIG}, which PEFT's save_pretrained writes, and no {head.CONFIG} of a classification head"


def unpack(file: BinaryIO, filename: str, destination: Path, limits: ArchiveLimits) -> None:
    """Unpack an adapter's own files from a .zip or .tar.gz, whatever folder they lie in; the rest is left out.

    Raises BadRequest for no archive, TooLarge beyond the limits, AdapterRejected for paths that escape,
    links and pickles, StorageError when the disk refuses.
    """
    found: set[str] = set()

    def place(path: PurePosixPath) -> Path | None:
        if path.suffix in PICKLES:
            raise AdapterRejected(f"{path.name[:80]} is a pickle, which can run code; save the adapter as safetensors")
        if path.name not in KEPT:
            return None
        if path.name in found:
            raise BadRequest(f"The archive holds {path.name} twice; send one adapter at a time.")
        found.add(path.name)
        return destination / path.name

    try:
        extract(file, filename, limits, place)
    except UnsafeArchive as error:
        raise AdapterRejected(str(error)) from None
    if found.isdisjoint(CONFIGS):
        raise BadRequest(f"The archive holds {NO_ADAPTER}.")


def pack(folder: Path, target: BinaryIO) -> None:
    """Write an adapter's files as a zip."""
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(folder.iterdir()):
            if file.is_file():
                archive.write(file, file.name)


def holds_adapter(folder: Path) -> bool:
    return any((folder / name).is_file() for name in CONFIGS)


def copy_adapter(source: Path, destination: Path, limits: ArchiveLimits) -> None:
    """The adapter's own files from a folder, within the same limits."""
    if not holds_adapter(source):
        raise BadRequest(f"That folder holds {NO_ADAPTER}.")
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
