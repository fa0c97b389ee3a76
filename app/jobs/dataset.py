"""A data set on its way in: an archive or a single file that was uploaded, or what lies under an allowed folder."""

from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from app.errors import BadRequest, Forbidden, StorageError
from app.registry.entries import ArchiveLimits, copy_stream, extract

KINDS = (".jsonl", ".csv")
_DEPTH = 3  # folders above the data file at most
_LISTED = 500


def unpack_dataset(file: BinaryIO, filename: str, destination: Path, limits: ArchiveLimits) -> Path:
    """Bring an upload into ``destination``; the data file. Relative folders stay as they are.

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
    return data_file(destination)


def allowed_dataset(named: str, roots: Sequence[Path]) -> Path:
    """The data file that ``named`` is or holds. Raises Forbidden outside the roots, BadRequest without one."""
    real = Path(named).resolve()
    if not any(real.is_relative_to(root.resolve()) for root in roots):
        raise Forbidden("That data set is not under a folder this server may read (OVERTONE_DATASET_ROOTS).")
    if real.is_dir():
        return data_file(real)
    if not real.is_file() or real.suffix.lower() not in KINDS:
        raise BadRequest(f"dataset: {named[:200]!r} is neither a folder nor a .jsonl or .csv file.")
    return real


def known_datasets(roots: Sequence[Path]) -> list[Path]:
    """What `allowed_dataset` would take: the data files near the top of the roots, the first few hundred."""
    found: dict[Path, None] = {}
    for root in roots:
        for depth in range(_DEPTH):
            found |= dict.fromkeys(file for file in root.glob("*/" * depth + "*") if file.suffix.lower() in KINDS)
    return sorted(found)[:_LISTED]


def data_file(folder: Path) -> Path:
    """The one .jsonl or .csv that lies highest. Raises BadRequest for none or several."""
    for depth in range(_DEPTH + 1):
        found = sorted(file for file in folder.glob("*/" * depth + "*") if file.suffix.lower() in KINDS)
        if len(found) == 1:
            return found[0]
        if found:
            names = ", ".join(str(file.relative_to(folder)) for file in found[:5])
            raise BadRequest(f"The data set holds several data files ({names}); leave one.")
    raise BadRequest("The data set holds no .jsonl or .csv that lists its recordings.")


def _single(file: BinaryIO, target: Path, limits: ArchiveLimits) -> Path:
    try:
        with target.open("wb") as written:
            copy_stream(file, written, limits.max_bytes, limits)
    except OSError as error:
        raise StorageError(f"The data set could not be written ({error.strerror}).") from error
    return target
