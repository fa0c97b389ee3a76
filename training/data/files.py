"""Dataset files: JSON lines, JSON lists, tables, Parquet and Arrow. What is broken keeps its line number."""

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from app.errors import DatasetError
from training.data.columns import read_arrow, read_parquet
from training.data.encodings import text_in
from training.data.llama_factory import Entry, entry_of
from training.data.records import BadRow, Notes, PassedOver, Record, shown
from training.data.tables import read_table

Read = Iterator[tuple[str, object]]  # places in a file, and what stands there


def read_file(
    file: Path, notes: Notes, *, name: str | None = None, split: str | None = None, roots: Sequence[Path] = ()
) -> Iterator[Record]:
    """The records of one file, by its suffix; ``name`` stands in their places. Raises DatasetError, OSError.

    A `dataset_info.json` of LLaMA-Factory beside it says what its columns mean. ``roots``: of recordings that a
    column of audio names without holding them.
    """
    notes.read.add(file)
    entry = entry_of(file, notes)
    for place, value in _records(file, notes, roots):
        yield Record(f"{name or file.name}{place}", _translated(entry, value), file.parent, split)


def _translated(entry: Entry | None, value: object) -> object:
    try:
        return value if entry is None else entry.translated(value)
    except BadRow as why:
        return why


def _records(file: Path, notes: Notes, roots: Sequence[Path]) -> Read:
    kind = file.suffix.lower()
    if kind in (".csv", ".tsv"):
        table = read_table(file)
        if table.remark:
            notes.remark(f"{file.name}: {table.remark}")
        notes.passed_over += [PassedOver(f"{file.name}:{number}", "an empty line") for number in table.empty]
        yield from table.records()
    elif kind == ".parquet":
        yield from read_parquet(file, roots)
    elif kind == ".arrow":
        yield from read_arrow(file, roots)
    else:
        yield from READERS[kind](file)


def _json_lines(file: Path) -> Read:
    with file.open("rb") as stream:
        first = stream.read(4)
        if first.startswith((b"\xff\xfe", b"\xfe\xff")):  # UTF-16: its lines do not end with one byte
            lines: Iterator[bytes] = (line.encode() for line in text_in(file.read_bytes(), file.name).split("\n"))
        else:
            stream.seek(0)
            lines = iter(stream)
        for number, line in enumerate(lines, start=1):
            text = line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line
            if text.strip():
                yield f":{number}", _parsed(text)


def _parsed(line: bytes) -> object:
    try:
        return json.loads(line.decode(), object_pairs_hook=_once)
    except UnicodeDecodeError:
        return BadRow("is not UTF-8 text")
    except BadRow as why:
        return why
    except ValueError as error:
        return BadRow(f"is broken JSON ({str(error).partition(':')[0][:80]})")
    except RecursionError:
        return BadRow("is nested too deeply")


def _once(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """An object whose keys stand once; JSON itself would take the last of several."""
    value = dict(pairs)
    if len(value) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise BadRow(f"holds {shown(twice)} twice in one object")
    return value


def _json_list(file: Path) -> Iterator[tuple[str, object]]:
    value = _parsed(text_in(file.read_bytes(), file.name).encode(errors="surrogateescape"))
    if isinstance(value, BadRow):
        raise DatasetError(f"The data set {file.name!r} {value}; save one object a line as .jsonl.")
    if not isinstance(value, list):
        raise DatasetError(f"The data set {file.name!r} is no JSON list of rows.")
    for number, row in enumerate(value, start=1):
        yield f"#{number}", row


READERS: dict[str, Callable[[Path], Read]] = {".jsonl": _json_lines, ".json": _json_list}
KINDS = (".jsonl", ".json", ".csv", ".tsv", ".parquet", ".arrow")
