"""Dataset files: JSON lines, JSON lists, CSV and TSV. What is broken keeps its line number."""

import csv
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from app.errors import DatasetError
from training.data.formats import BadRow, Record


def read_file(file: Path, name: str | None = None, split: str | None = None) -> Iterator[Record]:
    """The records of one file, by its suffix; ``name`` stands in their places. Raises DatasetError, OSError."""
    for place, value in READERS[file.suffix.lower()](file):
        yield Record(f"{name or file.name}{place}", value, file.parent, split)


def _json_lines(file: Path) -> Iterator[tuple[str, object]]:
    with file.open("rb") as stream:
        for number, line in enumerate(stream, start=1):
            text = line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line
            if text.strip():
                yield f":{number}", _parsed(text)


def _parsed(line: bytes) -> object:
    try:
        return json.loads(line.decode())
    except UnicodeDecodeError:
        return BadRow("is not UTF-8 text")
    except ValueError as error:
        return BadRow(f"is broken JSON ({str(error).partition(':')[0][:80]})")
    except RecursionError:
        return BadRow("is nested too deeply")


def _json_list(file: Path) -> Iterator[tuple[str, object]]:
    value = _parsed(file.read_bytes().removeprefix(b"\xef\xbb\xbf"))
    if isinstance(value, BadRow):
        raise DatasetError(f"The data set {file.name!r} {value}; save one object a line as .jsonl.")
    if not isinstance(value, list):
        raise DatasetError(f"The data set {file.name!r} is no JSON list of rows.")
    for number, row in enumerate(value, start=1):
        yield f"#{number}", row


def _table(delimiter: str) -> Callable[[Path], Iterator[tuple[str, object]]]:
    def read(file: Path) -> Iterator[tuple[str, object]]:
        # surrogates stand for what is not UTF-8, so that the row that holds them can be named
        with file.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as stream:
            lines = csv.reader(stream, delimiter=delimiter, strict=True)
            try:
                header = next(lines, [])
            except csv.Error as error:
                raise DatasetError(f"The header of {file.name!r} is broken ({error}).") from None
            if len(set(header)) < len(header):
                raise DatasetError(f"The header of {file.name!r} names a column twice.")
            while True:
                place = f":{lines.line_num + 1}"
                try:
                    cells = next(lines, None)
                except csv.Error as error:
                    yield place, BadRow(f"is broken ({error})")
                    continue
                if cells is None:
                    return
                if cells:
                    yield place, _named(header, cells)

    return read


def _named(header: Sequence[str], cells: Sequence[str]) -> object:
    if len(cells) != len(header):
        return BadRow(f"has {len(cells)} fields under a header of {len(header)}")
    return dict(zip(header, cells, strict=True))


READERS: dict[str, Callable[[Path], Iterator[tuple[str, object]]]] = {
    ".jsonl": _json_lines,
    ".json": _json_list,
    ".csv": _table(","),
    ".tsv": _table("\t"),
}
