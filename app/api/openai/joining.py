"""The texts of a recording's windows as one: no word twice where windows overlap, no space where a script has none."""

import re
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from difflib import SequenceMatcher

# Scripts written without spaces: Chinese and Japanese, with their punctuation. Korean has spaces.
_SPACELESS = "\u2e80-\u2fff\u3000-\u30ff\u3100-\u312f\u31a0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\uff01-\uff9f"
_SPACELESS += "\U00020000-\U0003ffff"
_ENDS_SPACELESS, _BEGINS_SPACELESS = re.compile(f"[{_SPACELESS}]$"), re.compile(f"^[{_SPACELESS}]")
_WORD = re.compile(f"[{_SPACELESS}]|[^\\s{_SPACELESS}]+")
_MARKS = re.compile(r"^[^\w\s]+")
_COMPARED = 16  # words on either side: more than 2 s hold
_STRAY = 3  # words that one side may have beyond those in common: what a cut left of a word, or made of it
_ALIKE = 0.82  # share of equal letters of two words that count as one


@dataclass(frozen=True)
class Seam:
    """The place where two texts of overlapping audio meet.

    Of the first text, the part before ``end`` counts, with ``marks`` after it; of the second the part from ``start``.
    """

    end: int
    start: int
    marks: str = ""


@dataclass(frozen=True)
class _Word:
    """``end``: after its last letter, in the text. ``plain``: in lower case, without marks."""

    end: int
    plain: str

    @property
    def weight(self) -> int:
        return 2 if _BEGINS_SPACELESS.match(self.plain) else min(len(self.plain), 4)


def join(texts: Iterable[str]) -> str:
    """The texts of consecutive windows as one."""
    joined, whole = Joined(), ""
    for text in texts:
        joined.next_window()
        whole += joined.push(text)
    return whole


def seam(before: str, after: str) -> Seam:
    """The place where both texts have the same words; without any in common both count whole."""
    tail, head = list(_words(before))[-_COMPARED:], list(_words(after))[:_COMPARED]
    best, most = Seam(len(before), 0), 0
    for last in range(max(0, len(tail) - 1 - _STRAY), len(tail)):
        for first in range(min(_STRAY + 1, len(head))):
            length, weight = _common(tail, head, last, first)
            stray = len(tail) - 1 - last + first
            if weight > 2 * stray and weight - stray > most:
                start = head[first + length - 1].end
                marks = match.group() if (match := _MARKS.match(after[start:])) else ""
                most, best = weight - stray, Seam(tail[last].end, start + len(marks), marks)
    return best


def _common(tail: list[_Word], head: list[_Word], last: int, first: int) -> tuple[int, int]:
    """The largest number of words from ``first`` on that equal those up to ``last``, and their weight."""
    for length in range(min(last + 1, len(head) - first), 0, -1):
        pairs = list(zip(tail[last + 1 - length : last + 1], head[first : first + length], strict=True))
        if all(_same(one.plain, other.plain) for one, other in pairs):
            return length, sum(min(one.weight, other.weight) for one, other in pairs)
    return 0, 0


def _same(one: str, other: str) -> bool:
    if one == other:
        return True
    return min(len(one), len(other)) >= 5 and SequenceMatcher(None, one, other).ratio() >= _ALIKE


def _words(text: str) -> Iterator[_Word]:
    for match in _WORD.finditer(text):
        letters = [place for place, character in enumerate(match.group()) if character.isalnum()]
        if letters:
            plain = unicodedata.normalize("NFKC", match.group()).casefold()
            yield _Word(
                match.start() + letters[-1] + 1, "".join(character for character in plain if character.isalnum())
            )


class Joined:
    """`join` piece by piece: white space is held back until something follows it in its window."""

    def __init__(self) -> None:
        self._pending = ""
        self._said = ""
        self._fresh = True

    def next_window(self) -> None:
        self._pending, self._fresh = "", True

    def push(self, piece: str) -> str:
        """Add a piece of the window's text; returns the text that is ready."""
        whole = self._pending + piece
        if self._fresh:
            whole = whole.lstrip()
        words = whole.rstrip()
        self._pending = whole[len(words) :]
        if not words:
            return ""
        if self._fresh and self._said and not _spaceless(self._said, words):
            words = f" {words}"
        self._fresh, self._said = False, words[-1]
        return words


def _spaceless(before: str, after: str) -> bool:
    """True where two texts meet without a space."""
    return bool(_ENDS_SPACELESS.search(before) and (_BEGINS_SPACELESS.search(after) or not before.isalnum()))
