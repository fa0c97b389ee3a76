"""Hugging Face datasets, from the Hub or a folder that `save_to_disk` wrote. Audio stays encoded.

Columns are read as Arrow, without decoding: decoding would import torchcodec, and is this project's own work.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from app.errors import DatasetError
from training.data.columns import bytes_of, read_arrow, recorded_columns, with_sounds
from training.data.fields import SPLITS
from training.data.records import BadRow, Notes, Record
from training.data.rows import Sound

# hf:owner/name, hf:owner/name:config, hf:owner/name@train, hf-stream:owner/name:config@train[:1000]
SOURCE = re.compile(r"hf(?P<stream>-stream)?:(?P<name>[^:@]+)(:(?P<config>[^@]+))?(@(?P<split>.+))?")
SLICE = re.compile(r"(?P<split>\w+)\[:(?P<count>\d+)\]")


def read_hub(source: str, roots: Sequence[Path] = ()) -> Iterator[Record]:
    """The records of `hf:owner/name[:config][@split]`, all splits without one.

    `hf-stream:` reads over the network row by row and keeps the recordings in memory: give it a slice,
    `@train[:1000]`. Raises DatasetError.
    """
    words = SOURCE.fullmatch(source)
    if words is None:
        raise DatasetError(f"{source[:100]!r} is not of the form hf:owner/name[:config][@split].")
    name, config, split = words["name"], words["config"], words["split"]
    datasets = _datasets()
    try:
        if not words["stream"]:
            yield from _tables(datasets.load_dataset(name, config, split=split), name, split, roots)
            return
        part = SLICE.fullmatch(split or "")
        loaded = datasets.load_dataset(name, config, split=part["split"] if part else split, streaming=True)
        if part:
            loaded = loaded.take(int(part["count"]))
        yield from _streams(loaded, name, part["split"] if part else split, roots)
    except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        raise DatasetError(f"The data set {source[:100]!r} could not be read ({str(error)[:300]}).") from error


def is_saved(folder: Path) -> bool:
    """True if `save_to_disk` wrote this folder."""
    return (folder / "dataset_dict.json").is_file() or (folder / "state.json").is_file()


def read_saved(folder: Path, notes: Notes, roots: Sequence[Path] = ()) -> Iterator[Record]:
    """The records of a folder that `save_to_disk` wrote, one split or several. Raises DatasetError.

    The files that it names must lie in it, and the recordings that its cells name under ``roots``.
    """
    notes.read |= {file for file in folder.rglob("*") if file.is_file() and file.suffix in (".json", ".arrow")}
    if (folder / "dataset_dict.json").is_file():
        for split in _plain_names(folder / "dataset_dict.json", "splits"):
            yield from _saved_split(folder / split, f"{folder.name}@{split}", _plain(split), roots)
    else:
        split = _split_of_state(folder)
        yield from _saved_split(folder, f"{folder.name}@{split}" if split else folder.name, _plain(split), roots)


def _saved_split(folder: Path, name: str, split: str | None, roots: Sequence[Path]) -> Iterator[Record]:
    index = 0
    if _json(folder / "state.json").get("_indices_data_files"):
        raise DatasetError(f"The saved data set {name!r} is a selection; save it again with flatten_indices().")
    for file in _plain_names(folder / "state.json", "_data_files"):
        for _, value in read_arrow(folder / file, roots):
            yield Record(f"{name}[{index}]", _renamed(value, f"{name}[{index}]"), folder, split)
            index += 1


def _renamed(value: object, place: str) -> object:
    """Recordings named by the row's place in the split, whatever file it lies in."""
    if not isinstance(value, dict) or not isinstance(sound := value.get("audio"), Sound):
        return value
    return {**value, "audio": replace(sound, name=f"{place}.{sound.name.rpartition('.')[2]}")}


def _split_of_state(folder: Path) -> str:
    return str(_json(folder / "state.json").get("_split") or "")


def _plain_names(file: Path, key: str) -> list[str]:
    """Names in a list of the file, of entries of its own folder alone: it is a stranger's. Raises DatasetError."""
    listed = [one.get("filename") if isinstance(one, dict) else one for one in _json(file).get(key) or []]
    names = [one for one in listed if isinstance(one, str) and one and one == Path(one).name and one != ".."]
    if not names or len(names) < len(listed):
        raise DatasetError(f"The folder {file.parent.name!r} is no saved data set: {file.name} names no files of it.")
    for name in names:
        if not (file.parent / name).resolve().is_relative_to(file.parent.resolve()):
            raise DatasetError(f"The folder {file.parent.name!r} is no saved data set: {name!r} lies elsewhere.")
    return names


def _json(file: Path) -> dict[str, Any]:
    try:
        value = json.loads(file.read_bytes())
    except (OSError, ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise DatasetError(f"The folder {file.parent.name!r} cannot be read as a saved data set ({file.name}).")
    return value


def _datasets() -> Any:
    try:
        import datasets
    except ImportError:
        raise DatasetError("Hugging Face data sets need the extra: pip install 'overtone[train]'.") from None
    datasets.disable_progress_bars()
    return datasets


def _tables(loaded: Any, name: str, split: str | None, roots: Sequence[Path]) -> Iterator[Record]:
    for own, table in loaded.items() if isinstance(loaded, Mapping) else [(split or str(loaded.split or ""), loaded)]:
        yield from _table(table.with_format("arrow"), f"{name}@{own}" if own else name, _plain(own), roots)


def _table(table: Any, name: str, split: str | None, roots: Sequence[Path]) -> Iterator[Record]:
    """Rows of one split; in Arrow's form, no cell is decoded, and a selection counts as it was made."""
    features = table.features.to_dict()
    recorded = next(iter(recorded_columns(table.features.arrow_schema, name)), None)
    texts = table.remove_columns([recorded]) if recorded else table
    cells = table.select_columns([recorded]) if recorded else None

    def fetch(index: int) -> object:
        assert cells is not None
        return cells[index].column(recorded)[0].as_py()

    sounds = {recorded: fetch} if recorded else {}
    for index in range(len(table)):
        place = f"{name}[{index}]"
        row = texts[index].to_pylist()[0] if texts.column_names else {}
        yield Record(place, with_sounds(row, sounds, features, index, place, Path.cwd(), roots), Path.cwd(), split)


def _streams(loaded: Any, name: str, split: str | None, roots: Sequence[Path]) -> Iterator[Record]:
    for own, stream in loaded.items() if isinstance(loaded, Mapping) else [(split or "", loaded)]:
        label = f"{name}@{own}" if own else name
        features = stream.features.to_dict() if stream.features else {}
        for index, row in enumerate(stream.decode(False)):
            place = f"{label}[{index}]"
            recorded = [column for column, cell in row.items() if isinstance(cell, dict) and "bytes" in cell]
            if len(recorded) > 1:
                raise DatasetError(f"{name!r} has several columns of audio ({', '.join(recorded)}); keep one.")
            texts = {column: cell for column, cell in row.items() if column not in recorded}
            value = with_sounds(texts, {}, features, index, place, Path.cwd(), roots)
            try:
                for column in recorded:
                    value["audio"] = Sound(f"{place}.{column}", data=bytes_of(row[column], Path.cwd(), roots))
                yield Record(place, value, Path.cwd(), _plain(own))
            except OSError as error:
                yield Record(place, BadRow(f"its recording cannot be read ({error})"), Path.cwd())


def _plain(split: str) -> str | None:
    """`train[:100]` and `train+test` are for training; `validation` and `test` are what they say."""
    return SPLITS.get(split.lower())
