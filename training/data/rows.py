"""One example of a dataset, whatever file it came from."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

Role = Literal["system", "user", "assistant"]
PLACEHOLDER = "<audio>"


@dataclass(frozen=True)
class Turn:
    """One turn; ``text`` holds a placeholder for each recording that belongs there.

    ``learned``: whether an assistant's words are supervised; without, they are context alone.
    """

    role: Role
    text: str
    learned: bool = True


@dataclass(frozen=True)
class Sound:
    """The source of a recording's bytes.

    ``start`` and ``end``: the part that is meant, in seconds; None: from its beginning, to its end.
    ``stated``: the seconds that the row says it lasts, which the gate compares with what it does last.
    """

    name: str
    path: Path | None = None
    data: bytes | None = None
    start: float | None = None
    end: float | None = None
    stated: float | None = field(default=None, compare=False)

    def read(self) -> bytes:
        """The whole file's bytes. Raises OSError when it cannot be read."""
        if self.data is not None:
            return self.data
        assert self.path is not None
        return self.path.read_bytes()


@dataclass(frozen=True)
class Row:
    """``place``: file and line for messages, such as `data.jsonl:17`. ``corrected``: in place of a model's answer."""

    turns: tuple[Turn, ...]
    sounds: tuple[Sound, ...]
    label: str | None
    place: str
    split: str | None = None
    corrected: bool = False

    @property
    def prompt(self) -> str:
        """Text of the last user turn, without placeholders."""
        said = [turn.text for turn in self.turns if turn.role == "user"]
        return said[-1].replace(PLACEHOLDER, "").strip() if said else ""

    @property
    def response(self) -> str:
        """Text of the last assistant turn; empty without one."""
        said = [turn.text for turn in self.turns if turn.role == "assistant"]
        return said[-1] if said else ""
