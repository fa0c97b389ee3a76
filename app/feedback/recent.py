"""The latest questions with their recordings and answers, in memory alone, so that feedback can name them by id."""

import threading
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

from app.feedback.row import AdapterPart, AskedTurn, RecordingRef

KEPT_S = 3600.0  # an answer without a verdict is dropped after an hour
_OVERHEAD = 2048  # bytes of one entry beside its texts and recordings


@dataclass(frozen=True)
class Upload:
    """A recording as it was sent. ``kind``: the ending of its name, without the dot."""

    data: bytes
    kind: str

    def ref(self, kept: bool) -> RecordingRef:
        """Facts about it. ``kept``: whether its bytes are stored beside."""
        return RecordingRef(sha256=sha256(self.data).hexdigest(), bytes=len(self.data), kind=self.kind, kept=kept)


@dataclass(frozen=True)
class AnsweredRequest:
    """One question and its answer. ``id``: the answer's."""

    id: str
    model: str
    adapter: str
    adapters: tuple[AdapterPart, ...]
    messages: tuple[AskedTurn, ...]
    options: dict[str, Any]
    answer: str
    uploads: tuple[Upload, ...] = ()

    @property
    def size(self) -> int:
        """Bytes of memory, roughly."""
        texts = len(self.answer) + sum(len(turn.content) for turn in self.messages)
        return _OVERHEAD + 2 * texts + sum(len(upload.data) for upload in self.uploads)


@dataclass(frozen=True)
class _Entry:
    asked: AnsweredRequest
    ids: tuple[str, ...]
    until: float


class RecentRequests:
    """At most ``most_bytes`` of them, for an hour at most. Safe to use from any thread.

    Each tenant finds its own alone. Where memory ends, the tenant that holds the most loses its oldest.
    """

    def __init__(self, most_bytes: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._most = most_bytes
        self._clock = clock
        self._entries: OrderedDict[tuple[str | None, str], _Entry] = OrderedDict()
        self._ids: dict[tuple[str | None, str], str] = {}  # every id of a request: its answer's
        self._bytes: Counter[str | None] = Counter()
        self._lock = threading.Lock()

    def put(self, tenant: str | None, asked: AnsweredRequest, other_ids: Sequence[str] = ()) -> None:
        """Keep a finished request under the answer's id and ``other_ids``; one beyond all memory is not kept."""
        with self._lock:
            self._forget_old()
            if asked.size > self._most:
                return
            while sum(self._bytes.values()) + asked.size > self._most:
                fullest = max(self._bytes, key=lambda one: self._bytes[one])
                self._drop(next(key for key in self._entries if key[0] == fullest))
            self._entries[tenant, asked.id] = _Entry(asked, (asked.id, *other_ids), self._clock() + KEPT_S)
            self._ids |= {(tenant, one): asked.id for one in (asked.id, *other_ids)}
            self._bytes[tenant] += asked.size

    def get(self, tenant: str | None, identity: str) -> AnsweredRequest | None:
        """The request of a tenant by one of its ids; None for one that is not known (any more)."""
        with self._lock:
            self._forget_old()
            answer = self._ids.get((tenant, identity))
            entry = None if answer is None else self._entries.get((tenant, answer))
            return entry.asked if entry else None

    def _forget_old(self) -> None:
        now = self._clock()
        while self._entries and next(iter(self._entries.values())).until <= now:
            self._drop(next(iter(self._entries)))

    def _drop(self, key: tuple[str | None, str]) -> None:
        tenant, answer = key
        entry = self._entries.pop(key)
        for one in entry.ids:
            if self._ids.get((tenant, one)) == answer:
                del self._ids[tenant, one]
        self._bytes[tenant] -= entry.asked.size
        if not self._bytes[tenant]:
            del self._bytes[tenant]
