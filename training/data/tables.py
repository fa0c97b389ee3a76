"""Tables: any separator, quoted or not, with a header or in a layout that is known without one.

What a table means is decided from the whole of it, and every line becomes a row or a row that is refused: rows that a
wrong reading of quotation marks would swallow are the worst that can be lost without a word.
"""

import csv
import io
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from app.audio.decode import SUFFIXES
from app.errors import DatasetError
from training.data import fields as names
from training.data.encodings import text_in
from training.data.fields import normal
from training.data.paths import Stem
from training.data.records import BadRow
from training.data.segments import is_time

SEPARATORS = ",;\t|"
SAID = re.compile(r"\Asep=.(?=\r|\n)")  # Excel's first line; the header tells the separator as well
LINE_END = re.compile(r"\r\n|\n|\r")
_KNOWN = frozenset(
    (*names.AUDIO, *names.PROMPT, *names.RESPONSE, *names.SYSTEM, *names.MESSAGES, *names.IDLE, *names.REFUSED)
) | {names.INPUT, names.HISTORY, "label", "split"}
_FACTS = frozenset((*names.AUDIO, *names.MESSAGES))
LJSPEECH = "columns without a header: id, text and normalised text, as in LJSpeech; the normalised text is learned"
_LISTED = 200  # characters of a header that an error shows


@dataclass(frozen=True)
class Line:
    """``number``: where a row begins in its file, from 1. ``cells``, or why they could not be read."""

    number: int
    cells: list[str] | BadRow


@dataclass(frozen=True)
class Table:
    """``rows`` under the names of ``header``; ``remark``: how it was understood where no header says it.

    ``empty``: the numbers of lines that hold separators alone.
    """

    header: list[str]
    rows: list[Line]
    remark: str | None = None
    empty: list[int] = field(default_factory=list)

    def records(self) -> Iterator[tuple[str, object]]:
        """Each row's place and its cells by their names."""
        for line in self.rows:
            yield f":{line.number}", _record(self.header, line.cells)


def read_table(file: Path) -> Table:
    """The table in a file. Raises DatasetError, naming the header that it found, where nothing is to be learned."""
    text = SAID.sub("", text_in(file.read_bytes(), file.name), count=1)
    first = next((line for line in LINE_END.split(text) if line.strip()), "")
    if not first:
        return Table([], [])
    separator, spaced = _separator(first, file.suffix.lower())
    header = _cells(first, separator, spaced)
    if not _is_header(header):
        return _headless(text, separator, first, file)
    named = [normal(name) for name in header]
    if twice := [name for name in named if name and named.count(name) > 1]:
        raise DatasetError(f"The header of {file.name!r} names a column twice ({twice[0]}).")
    head, *rows = _rows(text, separator, spaced, len(header))
    if isinstance(head.cells, BadRow):
        raise DatasetError(f"The header of {file.name!r} {head.cells}.")
    return Table(head.cells, rows, empty=_separators_alone(text, separator))


def _separators_alone(text: str, separator: str) -> list[int]:
    lines = enumerate(LINE_END.split(text), start=1)
    return [number for number, line in lines if line.strip() and not line.strip(f' "{separator}')]


def _separator(first: str, suffix: str) -> tuple[str, bool]:
    """The separator of the first line that gives the most known names, and whether a blank follows it."""
    usual = "\t" if suffix == ".tsv" else ","
    order = [usual, *(one for one in SEPARATORS if one != usual)]

    def known(separator: str) -> int:
        return sum(_names_something(name) for name in _cells(first, separator, True))

    best = max(order, key=lambda one: (known(one), _width(first, one) > 1, one == usual))
    spaced = best != "\t" and bool(re.search(re.escape(best) + r" +\S", first))
    return best, spaced


def _width(line: str, separator: str) -> int:
    return len(_cells(line, separator, True))


def _cells(line: str, separator: str, spaced: bool) -> list[str]:
    try:
        return next(csv.reader([line], delimiter=separator, skipinitialspace=spaced), [])
    except csv.Error:
        return line.split(separator)


def _names_something(name: str) -> bool:
    plain = normal(name)
    return plain in _KNOWN or is_time(plain)


def _is_header(header: Sequence[str]) -> bool:
    """True if a column says that it names recordings, or any two columns say what they are."""
    plain = {normal(name) for name in header}
    return bool(plain & _FACTS) or sum(map(_names_something, header)) >= 2


def _rows(text: str, separator: str, spaced: bool, width: int) -> list[Line]:
    """All lines, header included, with quotation marks as the whole file uses them."""
    quoted = [line for line in _quoted(text, separator, spaced) if not _is_blank(line)]
    if '"' not in text:
        return quoted
    literal = [line for line in _literal(text, separator, spaced) if not _is_blank(line)]
    if any(_swallows(cell, separator) for line in quoted for cell in _of(line)):
        return literal
    fits = all(len(_of(line)) == width for line in literal)
    return literal if fits and _marks_are_text(quoted, literal, separator) else quoted


def _swallows(cell: str, separator: str) -> bool:
    """True if a quoted cell goes on over lines that name recordings of their own."""
    _, *later = LINE_END.split(cell)
    return any(_names_a_recording(one) for line in later if separator in line for one in line.split(separator))


def _marks_are_text(quoted: Sequence[Line], literal: Sequence[Line], separator: str) -> bool:
    """True if quotation marks belong to the words, where every physical line has the header's number of cells.

    They do where they cannot be read as quotes; and in files separated by tabs, which Common Voice's kind never
    quotes, where a cell is quoted that needs no quotes among others that are not.
    """
    broken = any(isinstance(line.cells, BadRow) for line in quoted)
    cells = [cell for line in literal[1:] for cell in _of(line) if cell and not _is_number(cell)]
    marked = [cell for cell in cells if len(cell) > 1 and cell.startswith('"') and cell.endswith('"')]
    if separator != "\t":
        return broken and not marked
    needless = any('"' not in cell[1:-1] for cell in marked)
    return broken or any(map(_out_of_place, cells)) or (needless and len(marked) < len(cells))


def _out_of_place(cell: str) -> bool:
    """Marks that no writer of quoted cells leaves so: inside an unquoted cell, or single ones in a quoted."""
    if not cell.startswith('"'):
        return '"' in cell
    return len(cell) < 2 or not cell.endswith('"') or '"' in cell[1:-1].replace('""', "")


def _column_of_recordings(lines: Sequence[Line]) -> int | None:
    """The column that names a recording in every line but the header."""
    rows = [_of(line) for line in lines[1:]]
    for column in range(len(_of(lines[0]))):
        if rows and all(_names_a_recording(row[column]) for row in rows):
            return column
    return None


def _names_a_recording(cell: str) -> bool:
    return PurePosixPath(cell.strip().strip('"')).suffix.lower() in SUFFIXES


def _is_number(cell: str) -> bool:
    return bool(re.fullmatch(r"[+-]?\d+([.,]\d+)?", cell.strip()))


def _of(line: Line) -> list[str]:
    return [] if isinstance(line.cells, BadRow) else line.cells


def _is_blank(line: Line) -> bool:
    return not isinstance(line.cells, BadRow) and not any(cell.strip() for cell in line.cells)


def _quoted(text: str, separator: str, spaced: bool) -> Iterator[Line]:
    """Rows as writers of CSV quote them; a quoted cell may hold separators and line ends."""
    lines = csv.reader(io.StringIO(text, newline=""), delimiter=separator, skipinitialspace=spaced, strict=True)
    while True:
        number = lines.line_num + 1
        try:
            cells = next(lines, None)
        except csv.Error as error:
            yield Line(number, BadRow(f"is broken ({error})"))
            continue
        if cells is None:
            return
        yield Line(number, cells)


def _literal(text: str, separator: str, spaced: bool) -> Iterator[Line]:
    for number, line in enumerate(LINE_END.split(text), start=1):
        cells = line.split(separator)
        yield Line(number, [cell.lstrip(" ") if spaced else cell for cell in cells])


def _headless(text: str, separator: str, first: str, file: Path) -> Table:
    """A table whose layout says what its columns are. Raises DatasetError for any other."""
    if separator != "|" and first.count("|") in (1, 2):
        separator = "|"
    width = _width(first, separator)
    rows = _rows(text, separator, False, width)
    if separator == "|" and width in (2, 3) and not _names_a_recording(first.split("|")[0]):
        rows = [line for line in _literal(text, "|", False) if not _is_blank(line)]
        if all(len(_of(line)) == width for line in rows) and _is_header_free(first):
            return Table(["audio", "text"], [_of_ljspeech(line) for line in rows], LJSPEECH)
    column = _column_of_recordings([Line(0, [""] * width), *rows]) if _all_wide(rows, width) else None
    if width == 2 and column is not None:
        header = ["audio", "text"] if column == 0 else ["text", "audio"]
        return Table(header, rows, f"columns without a header: {header[0]}, {header[1]}")
    listed = ", ".join(map(repr, _cells(first, separator, True)))
    raise DatasetError(
        f"{file.name!r} has no column for recordings: its first line is {listed[:_LISTED]}. Put a header above, as in "
        f"`audio{separator}text` (a recording: {', '.join(names.AUDIO[:6])} …; an answer: "
        f"{', '.join(names.RESPONSE)}, or label)."
    )


def _of_ljspeech(line: Line) -> Line:
    cells = _of(line)
    return Line(line.number, [Stem(cells[0].strip()), cells[-1]])


def _all_wide(rows: Sequence[Line], width: int) -> bool:
    return all(len(_of(line)) == width for line in rows)


def _is_header_free(first: str) -> bool:
    """LJSpeech's identifiers hold no blank, and no cell of its first line is a field's name."""
    cells = first.split("|")
    return " " not in cells[0].strip() and not any(map(_names_something, cells))


def _record(header: Sequence[str], cells: list[str] | BadRow) -> object:
    if isinstance(cells, BadRow):
        return cells
    if len(cells) != len(header):
        listed = ", ".join(header)
        return BadRow(f"has {len(cells)} fields under a header of {len(header)} ({listed[:_LISTED]})")
    return dict(zip(header, cells, strict=True))
