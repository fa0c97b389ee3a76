"""An answer as it is written, taken apart into text and calls of tools."""

import json
import re
import secrets
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Protocol

from app.api.schemas.openai.tools import ToolPlan
from app.models.structured.tools import BEGIN, END


@dataclass(frozen=True)
class TextDelta:
    """More of the text."""

    text: str


@dataclass(frozen=True)
class CallStart:
    """A call begins; ``index``: its place among the calls of the answer."""

    index: int
    name: str
    id: str = field(default_factory=lambda: f"call_{secrets.token_hex(12)}")


@dataclass(frozen=True)
class ArgumentsDelta:
    """More of the arguments of a call, JSON text."""

    index: int
    text: str


Piece = TextDelta | CallStart | ArgumentsDelta


class CallReader(Protocol):
    """Takes an answer piece by piece."""

    def feed(self, text: str) -> list[Piece]:
        """Returns what is certain so far."""

    def end(self) -> list[Piece]:
        """Returns the rest."""


class TextReader:
    """All is text."""

    def feed(self, text: str) -> list[Piece]:
        return [TextDelta(text)] if text else []

    def end(self) -> list[Piece]:
        return []


class NamedReader:
    """All is the arguments of one tool."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._begun = False

    def feed(self, text: str) -> list[Piece]:
        if not text:
            return []
        start: list[Piece] = [] if self._begun else [CallStart(0, self._name)]
        self._begun = True
        return [*start, ArgumentsDelta(0, text)]

    def end(self) -> list[Piece]:
        return []


_HEAD = re.compile(r'[\s,\[]*\{\s*"name"\s*:\s*("(?:[^"\\]|\\.)*")\s*,\s*"arguments"\s*:\s*(?=\{)')


class JsonReader:
    """`{"name": …, "arguments": {…}}` or a list of them, as the schema of a required tool has it."""

    def __init__(self) -> None:
        self._held = ""  # of what stands between two arguments
        self._index = -1
        self._depth = 0  # of braces in the arguments; 0 outside of them
        self._quoted = self._escaped = False

    def feed(self, text: str) -> list[Piece]:
        pieces: list[Piece] = []
        while text:
            if not self._depth:
                self._held += text
                head = _HEAD.search(self._held)
                if head is None:
                    return pieces
                text, self._held = self._held[head.end() :], ""
                self._index += 1
                pieces.append(CallStart(self._index, json.loads(head[1])))
            used = self._arguments(text)
            pieces.append(ArgumentsDelta(self._index, text[:used]))
            text = text[used:]
        return pieces

    def end(self) -> list[Piece]:
        return []

    def _arguments(self, text: str) -> int:
        """How many characters of ``text`` belong to the arguments."""
        for place, character in enumerate(text):
            if self._quoted:
                self._quoted = self._escaped or character != '"'
                self._escaped = character == "\\" and not self._escaped
            elif character == '"':
                self._quoted = True
            elif character in "{}":
                self._depth += 1 if character == "{" else -1
                if not self._depth:
                    return place + 1
        return len(text)


class MarkedReader:
    """Text, and calls between `<tool_call>` and `</tool_call>`; one that names no known tool stays text."""

    def __init__(self, names: Iterable[str]) -> None:
        self._names = frozenset(names)
        self._held = ""
        self._index = -1

    def feed(self, text: str) -> list[Piece]:
        self._held += text
        pieces: list[Piece] = []
        while (begin := self._held.find(BEGIN)) >= 0 and (end := self._held.find(END, begin)) >= 0:
            before, call = self._held[:begin], self._held[begin + len(BEGIN) : end]
            self._held = self._held[end + len(END) :].lstrip()
            pieces += self._text(before)
            pieces += self._call(call) or self._text(f"{BEGIN}{call}{END}")
        ready = begin if begin >= 0 else len(self._held) - _overlap(self._held)
        pieces += self._text(self._held[:ready])
        self._held = self._held[ready:]
        return pieces

    def end(self) -> list[Piece]:
        rest, self._held = self._held, ""
        return [TextDelta(rest)] if rest else []

    def _text(self, text: str) -> list[Piece]:
        return [TextDelta(text)] if text.strip() or (text and self._index < 0) else []

    def _call(self, text: str) -> list[Piece]:
        try:
            call = json.loads(text)
            name, arguments = call["name"], call.get("arguments", {})
        except (ValueError, KeyError, TypeError, AttributeError):
            return []
        if not isinstance(name, str) or name not in self._names or not isinstance(arguments, dict):
            return []
        self._index += 1
        return [CallStart(self._index, name), ArgumentsDelta(self._index, json.dumps(arguments, ensure_ascii=False))]


@dataclass(frozen=True)
class Call:
    """A whole call. ``arguments``: JSON text, unless the answer was cut off."""

    id: str
    name: str
    arguments: str


def written(reader: CallReader, answer: str) -> tuple[str | None, list[Call]]:
    """The text of a whole answer, and its calls; None for no text beside calls."""
    pieces = [*reader.feed(answer), *reader.end()]
    text = "".join(piece.text for piece in pieces if isinstance(piece, TextDelta))
    arguments = {piece.index: "" for piece in pieces if isinstance(piece, CallStart)}
    for piece in pieces:
        if isinstance(piece, ArgumentsDelta):
            arguments[piece.index] += piece.text
    calls = [Call(one.id, one.name, arguments[one.index]) for one in pieces if isinstance(one, CallStart)]
    return text if text or isinstance(reader, TextReader) else None, calls


def reader_of(plan: ToolPlan) -> CallReader:
    """The reader of an answer to a request with this plan."""
    if plan.mode == "named":
        return NamedReader(plan.tools[0].name)
    if plan.mode == "required":
        return JsonReader()
    return MarkedReader(tool.name for tool in plan.tools) if plan.mode == "auto" else TextReader()


def _overlap(text: str) -> int:
    """Characters at the end that may be the beginning of a mark."""
    return next((size for size in range(min(len(BEGIN) - 1, len(text)), 0, -1) if text.endswith(BEGIN[:size])), 0)
