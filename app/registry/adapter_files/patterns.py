"""Patterns of an adapter's configuration, matched as PEFT matches them, within a bound on time.

They come from strangers and may backtrack for ever. `re` cannot be stopped and holds the interpreter's lock, so names
with more than literal characters go through `regex`, which stops at a deadline and lets others run meanwhile.
"""

import re
import time
from collections.abc import Mapping
from typing import Any, TypeVar

import regex

from app.errors import BadRequest

MATCHING_S = 1.0  # for all patterns of one adapter
LONGEST = 1000  # characters; EVA and AdaLoRA write whole paths, trainers a line
_LITERAL = re.compile(r"[\w.]+", re.ASCII)
# `regex` reads these otherwise than `re` does: fuzzy matching, named lists, recursion, set operations
_OF_REGEX_ALONE = re.compile(r"\{(?!\d*(,\d*)?\})|\\[LKGpPXRhN]|\(\?[|&R0-9]|\(\?P[>&]|\[\[|\(\*|--|&&|\|\||~~")
V = TypeVar("V")


class Patterns:
    """Matches names within ``seconds`` altogether; safe to use from one thread."""

    def __init__(self, seconds: float) -> None:
        self._deadline = time.monotonic() + seconds
        self._compiled: dict[str, Any] = {}

    def full(self, pattern: str, name: str) -> bool:
        """`re.fullmatch`. Raises BadRequest for what is no expression, or takes too long."""
        return self._matches(pattern, pattern, name)

    def ends(self, pattern: str, name: str, *, dotted: bool = False) -> bool:
        """True if a pattern fits the end of a name, at a dot. Raises as `full` does.

        ``dotted``: as C3A and FourierFT match, not at the whole name, and without a group around the pattern.
        """
        return self._matches(rf".*\.{pattern}\Z" if dotted else rf"(.*\.)?({pattern})\Z", pattern, name)

    def first(self, patterns: Mapping[str, V], name: str, *, dotted: bool = False) -> tuple[str, V] | None:
        """The first pattern that fits a name's end, with its value; a key that equals the name fits as well."""
        for pattern, value in patterns.items():
            if self.ends(pattern, name, dotted=dotted):
                return pattern, value
        return (name, patterns[name]) if name in patterns else None

    def hits(self, patterns: Mapping[str, V], name: str, *, dotted: bool = False) -> dict[str, V]:
        """All patterns that `first` would take if they were the first, in their order."""
        found = {pattern: value for pattern, value in patterns.items() if self.ends(pattern, name, dotted=dotted)}
        return found or ({name: patterns[name]} if name in patterns else {})

    def _matches(self, expression: str, pattern: str, name: str) -> bool:
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise _too_slow(pattern)
        compiled = self._compile(expression, pattern)
        if isinstance(compiled, re.Pattern):
            return compiled.fullmatch(name) is not None
        try:
            return compiled.fullmatch(name, timeout=left, concurrent=True) is not None
        except TimeoutError:
            self._deadline = 0
            raise _too_slow(pattern) from None

    def _compile(self, expression: str, pattern: str) -> Any:
        if expression not in self._compiled:
            check(pattern)
            try:
                library = re if _LITERAL.fullmatch(pattern) else regex
                self._compiled[expression] = library.compile(expression)
            except (re.error, regex.error, OverflowError, RecursionError, ValueError):
                raise BadRequest(f"{pattern[:80]!r} is no regular expression") from None
        return self._compiled[expression]


def check(pattern: str) -> None:
    """Raises BadRequest for what `re` does not take, or what no layer's name needs."""
    if len(pattern) > LONGEST:
        raise BadRequest(f"{pattern[:80]!r}… has {len(pattern)} characters: more than a layer's name needs")
    if _LITERAL.fullmatch(pattern):
        return
    try:
        re.compile(pattern)
    except (re.error, OverflowError, RecursionError) as error:
        raise BadRequest(f"{pattern[:80]!r} is no regular expression ({str(error)[:80]})") from None
    if _OF_REGEX_ALONE.search(pattern):
        raise BadRequest(f"{pattern[:80]!r} is more than a layer's name needs; name the layers instead")


def _too_slow(pattern: str) -> BadRequest:
    return BadRequest(
        f"{pattern[:80]!r} takes long to match: it is more than a layer's name needs; name the layers instead"
    )
