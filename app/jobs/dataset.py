"""Incoming data sets: an uploaded archive or data file, or a path under an allowed folder."""

import re
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from app.audio.decode import SUFFIXES
from app.errors import BadRequest, Forbidden, StorageError
from app.registry.archive_reader import ArchiveLimits, copy_stream, extract

KINDS = (".jsonl", ".json", ".csv", ".tsv", ".parquet", ".arrow")
# Words in names of files and folders that say which split they are; the trainer knows the same
SPLITS = frozenset(("train", "training", "validation", "valid", "val", "dev", "eval", "evaluation", "test", "testing"))
_SAVED = ("dataset_dict.json", "state.json")  # in folders that `save_to_disk` of Hugging Face's datasets wrote
_NO_DATA = {*_SAVED, "dataset_info.json"}
_DEPTH = 3  # folders above the data file at most
_LISTED = 500


def unpack_dataset(file: BinaryIO, filename: str, destination: Path, limits: ArchiveLimits) -> Path:
    """Unpack an upload into ``destination``; the path that the trainer reads. Folders stay as they are.

    Raises BadRequest, TooLarge, UnsafeArchive or StorageError.
    """
    kind = PurePosixPath(filename).suffix.lower()
    if kind in KINDS:
        return _single(file, destination / f"data{kind}", limits)

    def place(path: PurePosixPath) -> Path | None:
        if "__MACOSX" in path.parts or path.name.startswith("._"):  # a Mac's own
            return None
        target = destination / path
        if target.exists() or any(parent.is_file() for parent in target.parents):
            raise BadRequest(f"The archive holds {str(path)[:80]!r} twice.")
        target.parent.mkdir(parents=True, exist_ok=True)
        return target

    extract(file, filename, limits, place)
    return data_in(destination)


def allowed_dataset(named: str, roots: Sequence[Path]) -> Path:
    """The path that the trainer reads where ``named`` is a data file or a folder.

    Raises Forbidden outside the roots, BadRequest when nothing is there.
    """
    try:
        real = Path(named).resolve()
    except (OSError, ValueError, RuntimeError):  # too long, a NUL, links in a circle
        real = Path()
    if not any(real.is_relative_to(root.resolve()) for root in roots):
        raise Forbidden("That data set is not under a folder this server may read (OVERTONE_DATASET_ROOTS).")
    if real.is_dir():
        return data_in(real)
    if not real.is_file() or real.suffix.lower() not in KINDS:
        raise BadRequest(f"dataset: {named[:200]!r} is neither a folder nor a file of {', '.join(KINDS)}.")
    return real


def known_datasets(roots: Sequence[Path]) -> list[Path]:
    """Data files near the top of the roots, or the folder of one a split; the first few hundred."""
    found: set[Path] = set()
    for root in roots:
        for depth in range(_DEPTH):
            for file in _data_files(root, depth):
                found.add(file.parent if _names_split(file.stem) else file)
            found |= {file.parent for name in _SAVED for file in root.glob("*/" * depth + name)}
    inside = {one for one in found if any(parent in found for parent in one.parents)}  # a saved split of a saved set
    return sorted(found - inside)[:_LISTED]


def data_in(folder: Path) -> Path:
    """The one data file that lies highest, the folder of one data file a split, or a folder of recordings.

    Raises BadRequest for none of these, and for several data files.
    """
    for depth in range(_DEPTH + 1):
        for name in (*_SAVED, "wav.scp"):
            if saved := sorted(folder.glob("*/" * depth + name)):
                return saved[0].parent if len(saved) == 1 else folder
        found = _data_files(folder, depth)
        parents = {file.parent for file in found}
        if depth and found and all(_names_split(parent.name) for parent in parents):
            return found[0].parent.parent
        if len(found) == 1:
            return found[0]
        if len(parents) == 1 and any(_names_split(file.stem) for file in found):
            return found[0].parent
        if found:
            names = ", ".join(str(file.relative_to(folder)) for file in found[:5])
            raise BadRequest(
                f"The data set holds several data files ({names}); leave one, or one a split (train.jsonl, val.jsonl "
                "…: train, val, valid, validation, dev, eval or test)."
            )
    recordings = [file for file in folder.rglob("*") if file.suffix.lower() in SUFFIXES and not _is_hidden(file)]
    listed = any(folder.glob("*.txt"))  # beside them, or a list of all
    if any(file.parent != folder or listed for file in recordings):
        return folder
    raise BadRequest(
        f"The data set holds no data file ({', '.join(KINDS)}) that lists its recordings, and no recordings with a "
        "transcript beside them (a .txt of the same name) or in a folder a class."
    )


def _data_files(folder: Path, depth: int) -> list[Path]:
    files = folder.glob("*/" * depth + "*")
    return sorted(
        file
        for file in files
        if file.suffix.lower() in KINDS and file.name not in _NO_DATA and not _is_hidden(file) and file.is_file()
    )


def _names_split(name: str) -> bool:
    return bool(SPLITS & set(re.split(r"[-._ 0-9]+", name.casefold())))


def _is_hidden(file: Path) -> bool:
    return file.name.startswith((".", "__MACOSX"))


def _single(file: BinaryIO, target: Path, limits: ArchiveLimits) -> Path:
    try:
        with target.open("wb") as written:
            copy_stream(file, written, limits.max_bytes, limits)
    except OSError as error:
        raise StorageError(
            f"The data set could not be written ({error.strerror}); the operator can free space."
        ) from error
    return target
