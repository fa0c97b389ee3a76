"""Folders that are datasets: by their data file, by transcripts beside recordings, by a folder a class."""

from collections.abc import Iterator
from pathlib import Path

from app.audio.decode import SUFFIXES
from app.errors import DatasetError
from training.data.files import READERS, read_file
from training.data.formats import SPLITS, BadRow, Record
from training.data.hub import is_saved, read_saved

IGNORED = {"dataset_info.json"}  # LLaMA-Factory's list of its datasets


def read_folder(folder: Path) -> Iterator[Record]:
    """The records of a folder. Raises DatasetError when it is no dataset or several."""
    yield from _read(folder, folder, None)


def _read(folder: Path, top: Path, split: str | None) -> Iterator[Record]:
    entries = [entry for entry in sorted(folder.iterdir()) if not entry.name.startswith((".", "__MACOSX"))]
    folders = [entry for entry in entries if entry.is_dir()]
    files = [entry for entry in entries if entry.suffix.lower() in READERS and entry.name not in IGNORED]
    if is_saved(folder):
        yield from read_saved(folder)
    elif files:
        yield from _files(files, top, split)
    elif folders and all(entry.name.lower() in SPLITS for entry in folders):
        for entry in folders:
            yield from _read(entry, top, SPLITS[entry.name.lower()])
    elif len(entries) == 1 and folders and _wraps(folders[0]):
        yield from _read(folders[0], top, split)
    else:
        yield from _recordings(folder, top, split)


def _wraps(folder: Path) -> bool:
    """Whether an only folder is what an archive puts around its content, and no class."""
    return any(entry.is_dir() or entry.suffix.lower() in READERS for entry in folder.iterdir())


def _files(files: list[Path], top: Path, split: str | None) -> Iterator[Record]:
    """One data file, or one a split."""
    splits = [SPLITS.get(file.stem.lower()) for file in files]
    if len(files) > 1 and None in splits:
        names = ", ".join(file.name for file in files[:5])
        raise DatasetError(f"The folder holds several data files ({names}); leave one, or one a split (train.jsonl …).")
    for file, own in zip(files, splits, strict=True):
        yield from read_file(file, str(file.relative_to(top)), own or split)


def _recordings(folder: Path, top: Path, split: str | None) -> Iterator[Record]:
    """Recordings with a .txt beside them; without any .txt, the first folder's name is the class."""
    found = [path for path in sorted(folder.rglob("*")) if path.suffix.lower() in SUFFIXES]
    found = [path for path in found if not path.name.startswith(".") and path.is_file()]
    transcribed = any(path.with_suffix(".txt").is_file() for path in found)
    if not found:
        raise DatasetError(f"The folder {folder.name!r} holds no recordings and no data file.")
    for path in found:
        parts = path.relative_to(folder).parts
        value: object = {"audio": str(path.relative_to(folder))}
        if transcribed:
            value = _with_transcript(path, str(path.relative_to(folder)))
        elif len(parts) > 1:
            value = {"audio": str(path.relative_to(folder)), "label": parts[0]}
        else:
            value = BadRow("has neither a transcript (a .txt of the same name) nor a class folder")
        yield Record(str(path.relative_to(top)), value, folder, split)


def _with_transcript(recording: Path, name: str) -> object:
    try:
        said = recording.with_suffix(".txt").read_bytes().decode("utf-8-sig").strip()
    except FileNotFoundError:
        return BadRow("has no transcript (a .txt of the same name)")
    except UnicodeDecodeError:
        return BadRow("has a transcript that is not UTF-8 text")
    return {"audio": name, "response": said}
