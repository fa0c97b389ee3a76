"""Token ids to text as they come, cut at stop strings. No torch, no model."""

from collections.abc import Callable, Sequence

_INCOMPLETE = "\ufffd"


class Detokenizer:
    """Incremental decoding of one answer.

    ``decode`` turns token ids into text. Text is held back while it ends in half a character or could
    be the beginning of a stop string, so what was emitted is never taken back.
    """

    def __init__(self, decode: Callable[[Sequence[int]], str], stop: tuple[str, ...] = ()) -> None:
        self._decode = decode
        self._stop = stop
        self._ids: list[int] = []
        self._settled_ids = 0  # ids before this index are fully part of `_settled`
        self._settled = ""
        self._emitted = 0
        self.stopped = False

    @property
    def text(self) -> str:
        """All text emitted so far."""
        return self._settled[: self._emitted]

    def push(self, token: int) -> str:
        """Take one token; return the text that is certain now. Sets ``stopped`` at a stop string."""
        self._ids.append(token)
        self._settle()
        return self._emit(self._held_back())

    def finish(self) -> str:
        """No more tokens: return what was held back."""
        if self.stopped:
            return ""
        self._settled += self._tail()
        self._settled_ids = len(self._ids)
        return self._emit(0)

    def _tail(self) -> str:
        """Text of the ids not settled yet; byte-level BPE decodes the same without its left context."""
        return self._decode(self._ids[self._settled_ids :])

    def _settle(self) -> None:
        tail = self._tail()
        if not tail or tail.endswith(_INCOMPLETE):
            return
        self._settled += tail
        self._settled_ids = len(self._ids)

    def _held_back(self) -> int:
        """Characters at the end that may be the beginning of a stop string."""
        for size in range(max((len(stop) for stop in self._stop), default=1) - 1, 0, -1):
            if any(stop.startswith(self._settled[-size:]) for stop in self._stop):
                return size
        return 0

    def _emit(self, held: int) -> str:
        end = len(self._settled)
        found = [at for stop in self._stop if (at := self._settled.find(stop)) >= 0]
        if found:
            self.stopped = True
            self._settled = self._settled[: min(found)]
            end, held = len(self._settled), 0
        new = self._settled[self._emitted : end - held]
        self._emitted = max(self._emitted, end - held)
        return new
