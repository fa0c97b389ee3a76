"""The file that a row's path means: as it is written, or as another system spells the same name."""

import unicodedata
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path, PurePosixPath

from app.audio.decode import SUFFIXES
from training.data.records import BadRow, shown

# Common Voice, LJSpeech and their like name the file alone and keep it in one of these
USUAL_FOLDERS = ("clips", "wavs", "wav", "audio", "audios", "recordings")


class Stem(str):
    """The name of a recording without its suffix."""

    __slots__ = ()


def find_recording(value: str, folder: Path, roots: Sequence[Path]) -> Path:
    """The recording that ``value`` names, from ``folder``.

    The name is tried as it is; then beside it in the folders where such data sets keep their clips; then in other
    Unicode forms and capitals. Raises BadRow for none, for several, and for one outside all ``roots`` (none: anywhere).
    """
    if isinstance(value, Stem):
        return _find_by_stem(value, folder, roots)
    whole = folder / value
    beside = [folder / usual / value for usual in USUAL_FOLDERS] if "/" not in value else []
    try:
        _refuse_outside(whole, value, roots)
        for spelled, places in ((_as_written, [whole]), (_as_written, beside), (_otherwise, [whole, *beside])):
            found = {file.resolve(): file for place in places for file in spelled(place) if _inside(file, roots)}
            if len(found) > 1:
                names = " or ".join(str(file.relative_to(folder)) for file in list(found.values())[:2])
                raise BadRow(f"the recording {shown(value)} may be {names}; name one of them")
            if found:
                return next(iter(found.values()))
    except (OSError, ValueError, RuntimeError):  # names that are too long, null bytes, loops of links
        pass
    raise BadRow(f"there is no recording {shown(value)}")


def forget_folders() -> None:
    """Look into folders anew; names are kept while one source is read."""
    _entries.cache_clear()
    _names.cache_clear()


def _find_by_stem(stem: str, folder: Path, roots: Sequence[Path]) -> Path:
    """The recording of that name, whatever its suffix, in ``folder`` or where its clips are kept. Raises BadRow."""
    if PurePosixPath(stem).suffix.lower() in SUFFIXES:
        return find_recording(str(stem), folder, roots)
    found = [
        file
        for place in (folder, *(folder / usual for usual in USUAL_FOLDERS))
        for name in _names(place).get(_key(stem), ())
        if _inside(file := place / name, roots)
    ]
    if len(found) > 1:
        raise BadRow(f"the recording {shown(stem)} may be {' or '.join(file.name for file in found[:3])}")
    if not found:
        raise BadRow(f"there is no recording {shown(stem)}")
    return found[0]


def _refuse_outside(path: Path, value: str, roots: Sequence[Path]) -> None:
    """Before anything is looked up: whether a file exists elsewhere is nobody's business."""
    if not _inside(path, roots):
        raise BadRow(f"the recording {shown(value)} lies outside the data set")


def _inside(path: Path, roots: Sequence[Path]) -> bool:
    if not roots:
        return True
    real = path.resolve()
    return any(real.is_relative_to(root.resolve()) for root in roots)


def _as_written(path: Path) -> Iterator[Path]:
    if path.is_file():
        yield path


def _otherwise(path: Path) -> Iterator[Path]:
    """Files whose names differ from the path's in Unicode form or in capitals alone."""
    places = [Path(path.anchor)]
    for part in path.parts[1 if path.anchor else 0 :]:
        exact = [place / part for place in places if (place / part).exists()]
        places = exact or [place / name for place in places for name in _entries(place).get(_key(part), ())]
    yield from (place for place in places if place.is_file())


def _key(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()


@lru_cache(maxsize=256)
def _entries(folder: Path) -> dict[str, list[str]]:
    """The names in a folder by what is left of them without form and capitals."""
    found: dict[str, list[str]] = {}
    if folder.is_dir():
        for entry in folder.iterdir():
            found.setdefault(_key(entry.name), []).append(entry.name)
    return found


@lru_cache(maxsize=256)
def _names(folder: Path) -> dict[str, list[str]]:
    """The recordings in a folder by their names without suffix."""
    found: dict[str, list[str]] = {}
    if folder.is_dir():
        for entry in folder.iterdir():
            if entry.suffix.lower() in SUFFIXES and not entry.name.startswith(".") and entry.is_file():
                found.setdefault(_key(entry.stem), []).append(entry.name)
    return found
