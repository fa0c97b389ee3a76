"""Hugging Face datasets, from the Hub or a folder that `save_to_disk` wrote. Audio stays encoded.

Columns are read with `Audio(decode=False)`: decoding would import torchcodec, and is this project's own work.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from app.errors import DatasetError
from training.data.formats import SPLITS, BadRow, Record
from training.data.rows import Sound

# hf:owner/name, hf:owner/name:config, hf:owner/name@train, hf-stream:owner/name:config@train[:1000]
SOURCE = re.compile(r"hf(?P<stream>-stream)?:(?P<name>[^:@]+)(:(?P<config>[^@]+))?(@(?P<split>.+))?")
SLICE = re.compile(r"(?P<split>\w+)\[:(?P<count>\d+)\]")


@dataclass(frozen=True)
class TableSound(Sound):
    """A recording that stays in its table, on disk, until it is read."""

    table: Any = field(default=None, compare=False, repr=False)
    column: str = "audio"
    index: int = 0

    def read(self) -> bytes:
        return _cell_bytes(self.table[self.index][self.column])


def read_hub(source: str) -> Iterator[Record]:
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
            yield from _tables(datasets.load_dataset(name, config, split=split), name, split)
            return
        part = SLICE.fullmatch(split or "")
        loaded = datasets.load_dataset(name, config, split=part["split"] if part else split, streaming=True)
        if part:
            loaded = loaded.take(int(part["count"]))
        yield from _streams(loaded, name, part["split"] if part else split)
    except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        raise DatasetError(f"The data set {source[:100]!r} could not be read ({str(error)[:300]}).") from error


def is_saved(folder: Path) -> bool:
    """Whether `save_to_disk` wrote this folder."""
    return (folder / "dataset_dict.json").is_file() or (folder / "state.json").is_file()


def read_saved(folder: Path) -> Iterator[Record]:
    """The records of a folder that `save_to_disk` wrote. Raises DatasetError."""
    datasets = _datasets()
    try:
        loaded = datasets.load_from_disk(str(folder))
    except (OSError, ValueError, KeyError, datasets.exceptions.DatasetsError) as error:
        raise DatasetError(f"The folder {folder.name!r} cannot be read as a saved data set ({error}).") from error
    yield from _tables(loaded, folder.name, None, folder)


def _datasets() -> Any:
    try:
        import datasets
    except ImportError:
        raise DatasetError("Hugging Face data sets need the extra: pip install 'overtone[train]'.") from None
    return datasets


def _tables(loaded: Any, name: str, split: str | None, folder: Path | None = None) -> Iterator[Record]:
    for own, table in loaded.items() if isinstance(loaded, Mapping) else [(split or str(loaded.split or ""), loaded)]:
        yield from _table(table, f"{name}@{own}" if own else name, _plain(own), folder or Path.cwd())


def _table(table: Any, name: str, split: str | None, folder: Path) -> Iterator[Record]:
    datasets = _datasets()
    recorded = [column for column, kind in table.features.items() if isinstance(kind, datasets.Audio)]
    for column in recorded:
        table = table.cast_column(column, datasets.Audio(decode=False))
    texts = table.remove_columns(recorded)
    sounds = {_field(column, recorded): (column, table.select_columns([column])) for column in recorded}
    for index in range(len(table)):
        place = f"{name}[{index}]"
        value = _named_label(texts[index] if texts.column_names else {}, table.features)
        for field_name, (column, cells) in sounds.items():
            value[field_name] = TableSound(f"{place}.{column}", table=cells, column=column, index=index)
        yield Record(place, value, folder, split)


def _streams(loaded: Any, name: str, split: str | None) -> Iterator[Record]:
    for own, stream in loaded.items() if isinstance(loaded, Mapping) else [(split or "", loaded)]:
        label = f"{name}@{own}" if own else name
        for index, row in enumerate(stream.decode(False)):
            place = f"{label}[{index}]"
            recorded = [column for column, cell in row.items() if isinstance(cell, dict) and "bytes" in cell]
            value = _named_label({key: cell for key, cell in row.items() if key not in recorded}, stream.features)
            try:
                for column in recorded:
                    data = _cell_bytes(row[column])
                    value[_field(column, recorded)] = Sound(f"{place}.{column}", data=data)
                yield Record(place, value, Path.cwd(), _plain(own))
            except OSError as error:
                yield Record(place, BadRow(f"its recording cannot be read ({error})"), Path.cwd())


def _cell_bytes(cell: Mapping[str, Any]) -> bytes:
    """Raises OSError where a table names a file that is not there."""
    data = cell["bytes"] if cell else None
    return bytes(data) if data is not None else Path((cell or {}).get("path") or "").read_bytes()


def _field(column: str, recorded: list[str]) -> str:
    """The only audio column is the audio, whatever its name."""
    return "audio" if len(recorded) == 1 else column


def _named_label(row: Mapping[str, Any], features: Any) -> dict[str, Any]:
    """Class numbers as the names that the dataset gives them; -1 stands for none."""
    value = dict(row)
    kind: Any = features.get("label") if features else None
    if hasattr(kind, "int2str") and isinstance(value.get("label"), int):
        value["label"] = kind.int2str(value["label"]) if value["label"] >= 0 else None
    return value


def _plain(split: str) -> str | None:
    """`train[:100]` and `train+test` are for training; `validation` and `test` are what they say."""
    return SPLITS.get(split.lower())
