"""Columnar files, Parquet and Arrow: rows as they are, recordings left where they lie until they are decoded.

Read by pyarrow alone: `datasets` would copy Parquet into a cache, and opens whatever path a cell or a `state.json`
names.
"""

import json
import threading
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache, partial
from itertools import accumulate
from pathlib import Path
from typing import Any

from app.errors import DatasetError
from training.data.cells import sound_of_cell
from training.data.fields import AUDIO, normal
from training.data.paths import find_recording
from training.data.records import BadRow
from training.data.rows import Sound

Features = Mapping[str, Any]  # as Hugging Face keeps them in a table's metadata
Fetch = Callable[[int], object]  # the cell of one row
_reading = threading.Lock()  # one group is unpacked once, however many threads decode its recordings


@dataclass(frozen=True)
class CellSound(Sound):
    """A recording that stays in its table until it is read.

    A cell without bytes names a file: from ``folder``, and under one of the ``roots`` where there are any.
    """

    index: int = 0
    fetch: Fetch | None = field(default=None, compare=False, repr=False)
    folder: Path = field(default=Path(), compare=False)
    roots: tuple[Path, ...] = field(default=(), compare=False)

    def read(self) -> bytes:
        assert self.fetch
        return bytes_of(self.fetch(self.index), self.folder, self.roots)


def bytes_of(cell: object, folder: Path, roots: Sequence[Path]) -> bytes:
    """The file in a cell, or the file that it names. Raises OSError."""
    if isinstance(cell, bytes):
        return cell
    try:
        sound = sound_of_cell(cell) if isinstance(cell, Mapping) else cell
        if isinstance(sound, Sound):
            return sound.read()
        if not isinstance(sound, str):
            raise BadRow("the cell holds no recording")
        return find_recording(sound, folder, roots).read_bytes()
    except BadRow as why:
        raise OSError(str(why)) from None


def read_parquet(file: Path, roots: Sequence[Path]) -> Iterator[tuple[str, object]]:
    """The place and the fields of each row of a Parquet file. Raises DatasetError."""
    with _reported(file):
        from pyarrow import parquet

        opened = parquet.ParquetFile(file)
        schema = opened.schema_arrow
        counts = [opened.metadata.row_group(group).num_rows for group in range(opened.num_row_groups)]
        recorded, features = recorded_columns(schema, file.name), features_of(schema)
        texts = [name for name in schema.names if name not in recorded]
        starts = [0, *accumulate(counts)]

    def fetch(column: str, index: int) -> object:
        group = bisect_right(starts, index) - 1
        with _reading:
            cells = _group(file, group, column)
        return cells[index - starts[group]].as_py()

    for group, count in enumerate(counts):
        with _reported(file):
            rows = opened.read_row_group(group, columns=texts).to_pylist() if texts else [{}] * count
        for index, row in enumerate(rows, start=starts[group]):
            sounds = {column: partial(fetch, column) for column in recorded}
            yield f"[{index}]", with_sounds(row, sounds, features, index, f"{file.name}[{index}]", file.parent, roots)


def read_arrow(file: Path, roots: Sequence[Path]) -> Iterator[tuple[str, object]]:
    """The same of a file in Arrow's stream or file format, as `save_to_disk` writes. Raises DatasetError."""
    with _reported(file):
        table = _arrow_table(file)
    yield from arrow_rows(table, file.name, file.parent, roots)


def arrow_rows(table: Any, name: str, folder: Path, roots: Sequence[Path]) -> Iterator[tuple[str, object]]:
    """The place and the fields of each row of a pyarrow table; ``name`` stands in its recordings' names."""
    recorded, features = recorded_columns(table.schema, name), features_of(table.schema)
    texts = table.select([column for column in table.column_names if column not in recorded])

    def fetch(column: str, index: int) -> object:
        return table.column(column)[index].as_py()

    sounds = {column: partial(fetch, column) for column in recorded}
    for first in range(0, table.num_rows, 1000):
        rows = texts.slice(first, 1000).to_pylist() if texts.column_names else [{}] * min(1000, table.num_rows - first)
        for index, row in enumerate(rows, start=first):
            yield f"[{index}]", with_sounds(row, sounds, features, index, f"{name}[{index}]", folder, roots)


def with_sounds(
    row: Mapping[str, object],
    sounds: Mapping[str, Fetch],
    features: Features,
    index: int,
    place: str,
    folder: Path,
    roots: Sequence[Path],
) -> dict[str, object]:
    """A row's fields, class numbers by their names, and its recordings; the only recorded column is the audio."""
    value = {name: _named(cell, features.get(name)) for name, cell in row.items()}
    for column, fetch in sounds.items():
        name = f"{place}.{column}"
        value["audio"] = CellSound(name, index=index, fetch=fetch, folder=folder, roots=tuple(roots))
    return value


def recorded_columns(schema: Any, name: str) -> list[str]:
    """The column that holds recordings, if any. Raises DatasetError for several: nothing says which is meant."""
    features = features_of(schema)
    found = [field.name for field in schema if _is_recorded(field, features.get(field.name))]
    if len(found) > 1:
        raise DatasetError(f"{name!r} has several columns of audio ({', '.join(found)}); keep the one that is meant.")
    return found


def features_of(schema: Any) -> Features:
    """Hugging Face's types of the columns, from the table's metadata; empty without."""
    try:
        found = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
    except (KeyError, ValueError, TypeError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _is_recorded(column: Any, feature: object) -> bool:
    from pyarrow import types

    if isinstance(feature, Mapping) and feature.get("_type") == "Audio":
        return True
    if types.is_struct(column.type):
        names = {column.type.field(place).name for place in range(column.type.num_fields)}
        return names >= {"bytes", "path"} or names >= {"array", "sampling_rate"}
    binary = types.is_binary(column.type) or types.is_large_binary(column.type)
    return bool(binary and normal(column.name) in AUDIO)


def _named(cell: object, feature: object) -> object:
    """Class numbers as the names that the data set gives them; -1 stands for none."""
    names = feature.get("names") if isinstance(feature, Mapping) and feature.get("_type") == "ClassLabel" else None
    if not isinstance(names, list) or not isinstance(cell, int):
        return cell
    return names[cell] if 0 <= cell < len(names) else None


@lru_cache(maxsize=2)
def _group(file: Path, group: int, column: str) -> Any:
    """One column of one group of rows of a Parquet file."""
    from pyarrow import parquet

    return parquet.ParquetFile(file).read_row_group(group, columns=[column]).column(column)


def _arrow_table(file: Path) -> Any:
    import pyarrow
    from pyarrow import ipc

    mapped = pyarrow.memory_map(str(file))
    try:
        return ipc.open_stream(mapped).read_all()
    except pyarrow.ArrowInvalid:
        mapped.seek(0)
        return ipc.open_file(mapped).read_all()


@contextmanager
def _reported(file: Path) -> Iterator[None]:
    """Turns what pyarrow raises into a DatasetError that names the file."""
    try:
        yield
    except ModuleNotFoundError:
        raise DatasetError("Parquet and Arrow files need the extra: pip install 'overtone[train]'.") from None
    except (OSError, ValueError, KeyError, NotImplementedError) as error:  # pyarrow's own are of these
        raise DatasetError(f"{file.name!r} cannot be read ({str(error)[:200]}).") from error
