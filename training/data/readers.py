"""Rows from any source; a source with bad rows is refused with all their places."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from app.errors import DatasetError
from training.data.files import READERS, read_file
from training.data.folders import read_folder
from training.data.formats import BadRow, Record, Rules, row_of
from training.data.hub import read_hub
from training.data.rows import Row


def read_rows(source: str, *, default_prompt: str, audio_roots: Sequence[Path] = ()) -> list[Row]:
    """All rows of a .jsonl, .json, .csv or .tsv file, a folder, or `hf:owner/name[:config][@split]`.

    ``default_prompt`` is for rows that bring none. Recordings may lie anywhere, unless ``audio_roots`` are
    given: then only under them. Their bytes are not read here.

    Raises DatasetError: for a source that is no dataset, and once for all bad rows, naming each.
    """
    rules = Rules(default_prompt, audio_roots)
    rows: list[Row] = []
    problems: list[str] = []
    try:
        for record in _records(source):
            try:
                rows.append(row_of(record, rules))
            except BadRow as why:
                problems.append(f"{record.place}: {why}")
    except OSError as error:
        raise DatasetError(f"The data set {source[:200]!r} cannot be read ({error.strerror or error}).") from error
    if problems:
        count = len(rows) + len(problems)
        raise DatasetError(f"{len(problems)} of the {count} rows of the data set cannot be used", problems)
    if not rows:
        raise DatasetError(f"The data set {source[:200]!r} holds no rows.")
    return rows


def _records(source: str) -> Iterator[Record]:
    if source.startswith(("hf:", "hf-stream:")):
        return read_hub(source)
    path = Path(source)
    if path.is_dir():
        return read_folder(path)
    if path.suffix.lower() in READERS and path.is_file():
        return read_file(path)
    kinds = ", ".join(READERS)
    raise DatasetError(f"{source[:200]!r} is no data set: give a file ({kinds}), a folder, or hf:owner/name.")
