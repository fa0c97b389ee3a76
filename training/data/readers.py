"""Rows from any source; a source with bad rows is refused with all their places."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from app.errors import DatasetError
from training.data.fields import SPLITS
from training.data.files import KINDS, read_file
from training.data.folders import note_left_over, read_folder
from training.data.formats import row_of
from training.data.hub import read_hub
from training.data.paths import forget_folders
from training.data.records import BadRow, Notes, Record, Rules
from training.data.rows import Row


@dataclass(frozen=True)
class Source:
    """``rows`` of one source, and ``notes`` of what it holds besides."""

    rows: list[Row]
    notes: Notes


def read_rows(source: str, *, default_prompt: str, audio_roots: Sequence[Path] = (), head: bool = False) -> list[Row]:
    """The rows of `read_source`."""
    return read_source(source, default_prompt=default_prompt, audio_roots=audio_roots, head=head).rows


def read_source(source: str, *, default_prompt: str, audio_roots: Sequence[Path] = (), head: bool = False) -> Source:
    """All rows of a data file, a folder, or `hf:owner/name[:config][@split]`.

    ``default_prompt`` is for rows that bring none. Recordings may lie anywhere, unless ``audio_roots`` are
    given: then only under them, the first being the data set's own. Their bytes are not read here. ``head``: labels
    are classes.

    Raises DatasetError: for a source that is no dataset, and once for all bad rows, naming each.
    """
    rules = Rules(default_prompt, audio_roots, head)
    rows: list[Row] = []
    problems: list[str] = []
    forget_folders()
    try:
        for record in _records(source, rules):
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
    rows = _by_folders(rows, rules.notes)
    if whole := _whole(Path(source), audio_roots):
        rules.notes.read |= {sound.path for row in rows for sound in row.sounds if sound.path is not None}
        note_left_over(whole, rules.notes)
    return Source(rows, rules.notes)


def _whole(source: Path, roots: Sequence[Path]) -> Path | None:
    """The folder that is the data set: the source, or the first root where the source lies in it."""
    if source.is_dir():
        return source
    return roots[0] if roots and source.is_file() and source.resolve().is_relative_to(roots[0].resolve()) else None


def _by_folders(rows: list[Row], notes: Notes) -> list[Row]:
    """The rows, those without a split in that of the folder that their recordings lie in: `test/a.wav`.

    As Hugging Face's audiofolder has it; where all lie in folders of one split, that says nothing.
    """
    inside = [_folder_split(row) if row.split is None else row.split for row in rows]
    if len(set(inside)) < 2 or all(row.split == own for row, own in zip(rows, inside, strict=True)):
        return rows
    notes.remark("rows without a split are in that of the folder of their recordings (train/, val/, test/)")
    return [replace(row, split=own) for row, own in zip(rows, inside, strict=True)]


def _folder_split(row: Row) -> str | None:
    """Raises nothing: recordings of two splits in one row say none."""
    names = [PurePosixPath(sound.name) for sound in row.sounds]
    parts = {part.casefold() for name in names if not name.is_absolute() for part in name.parts[:-1]}
    found = {SPLITS[part] for part in parts if part in SPLITS}
    return next(iter(found)) if len(found) == 1 else None


def _records(source: str, rules: Rules) -> Iterator[Record]:
    if source.startswith(("hf:", "hf-stream:")):
        return read_hub(source, rules.audio_roots)
    path = Path(source)
    if path.is_dir():
        return read_folder(path, rules.notes, rules.audio_roots)
    if path.suffix.lower() in KINDS and path.is_file():
        return read_file(path, rules.notes, roots=rules.audio_roots)
    kinds = ", ".join(KINDS)
    raise DatasetError(f"{source[:200]!r} is no data set: give a file ({kinds}), a folder, or hf:owner/name.")
