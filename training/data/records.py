"""Records as readers hand them on, before their fields are understood, and notes on what was left out."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple


class BadRow(Exception):
    """The reason why a record is no row; words that follow its place."""


class Record(NamedTuple):
    """``value``: what was read, or why it could not be. ``folder``: where relative audio paths begin."""

    place: str
    value: object
    folder: Path
    split: str | None = None


class PassedOver(NamedTuple):
    """A file or a row of the source that no training row is made of. ``name``: as its data set knows it."""

    name: str
    why: str


@dataclass
class Notes:
    """Facts to report of a source beside its rows.

    ``idle``: fields that carry no meaning for training. ``unknown``: fields that no reader knows, with the number of
    rows that fill them. ``read``: data files, transcripts and recordings that were used. ``remarks``: how a layout
    was understood, in words.
    """

    idle: set[str] = field(default_factory=set)
    unknown: Counter[str] = field(default_factory=Counter)
    passed_over: list[PassedOver] = field(default_factory=list)
    read: set[Path] = field(default_factory=set)
    remarks: list[str] = field(default_factory=list)

    def joined(self, other: "Notes") -> "Notes":
        """Both sources' notes."""
        return Notes(
            self.idle | other.idle,
            self.unknown + other.unknown,
            [*self.passed_over, *other.passed_over],
            self.read | other.read,
            list(dict.fromkeys([*self.remarks, *other.remarks])),
        )

    def remark(self, words: str) -> None:
        """Once, however often it is said."""
        if words not in self.remarks:
            self.remarks.append(words)


@dataclass(frozen=True)
class Rules:
    """The rules by which records become rows.

    ``prompt``: for rows without one. ``audio_roots``: recordings must lie under one of them; none: anywhere.
    ``head``: labels are classes, so that a boolean label is one too.
    """

    prompt: str
    audio_roots: Sequence[Path] = ()
    head: bool = False
    notes: Notes = field(default_factory=Notes)


def shown(value: object) -> str:
    """A value as an error names it: short, and printable."""
    words = ascii(value) if not isinstance(value, str) or not value.isprintable() else repr(value)
    return words if len(words) <= 80 else f"{words[:80]}…"
