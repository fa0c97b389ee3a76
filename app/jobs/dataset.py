"""A data set on its way in: an archive or a single file that was uploaded, or what lies under an allowed folder."""

from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from app.audio.decode import SUFFIXES
from app.errors import BadRequest, Forbidden, StorageError
from app.registry.entries import ArchiveLimits, copy_stream, extract

KINDS = (".jsonl", ".json", ".csv", ".tsv")
SPLITS = ("train", "validation", "valid", "dev", "test")
_DEPTH = 3  # folders above the data file at most
_LISTED = 500


def unpack_dataset(file: BinaryIO, filename: str, destination: Path, limits: ArchiveLimits) -> Path:
    """Bring an upload into ``destination``; what the trainer is to read of it. Relative folders stay as they are.

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
    """What the trainer is to read where ``named`` is a data file or a folder.

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
            files = [file for file in root.glob("*/" * depth + "*") if file.suffix.lower() in KINDS]
            found |= {file.parent if file.stem.lower() in SPLITS else file for file in files}
    return sorted(found)[:_LISTED]


def data_in(folder: Path) -> Path:
    """The one data file that lies highest, the folder of one data file a split, or a folder of recordings.

    Raises BadRequest for none of these, and for several data files.
    """
    for depth in range(_DEPTH + 1):
        found = sorted(file for file in folder.glob("*/" * depth + "*") if file.suffix.lower() in KINDS)
        if len(found) == 1:
            return found[0]
        if found and len({file.parent for file in found}) == 1 and all(file.stem.lower() in SPLITS for file in found):
            return found[0].parent
        if found:
            names = ", ".join(str(file.relative_to(folder)) for file in found[:5])
            raise BadRequest(f"The data set holds several data files ({names}); leave one, or one a split (train …).")
    recordings = [file for file in folder.rglob("*") if file.suffix.lower() in SUFFIXES]
    if any(file.parent != folder or file.with_suffix(".txt").is_file() for file in recordings):
        return folder
    raise BadRequest(
        f"The data set holds no data file ({', '.join(KINDS)}) that lists its recordings, and no recordings with a "
        "transcript beside them (a .txt of the same name) or in a folder a class."
    )


def _single(file: BinaryIO, target: Path, limits: ArchiveLimits) -> Path:
    try:
        with target.open("wb") as written:
            copy_stream(file, written, limits.max_bytes, limits)
    except OSError as error:
        raise StorageError(
            f"The data set could not be written ({error.strerror}); the operator can free space."
        ) from error
    return target
