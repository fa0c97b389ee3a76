"""How much one key may ask for: requests at a time, and requests a minute."""

import math
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from app.access.caller import Caller
from app.errors import RateLimited


@dataclass
class _Bucket:
    tokens: float
    filled: float


class Meter:
    """A token bucket and a counter for each key. Used on the event loop alone, so nothing is locked.

    A bucket holds what one minute allows and fills evenly.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._buckets: dict[str, _Bucket] = {}
        self._running: Counter[str] = Counter()

    @contextmanager
    def admitted(self, caller: Caller) -> Iterator[None]:
        """Count a request for as long as it lasts, however it ends. Raises RateLimited."""
        if caller.concurrent is not None and self._running[caller.key] >= caller.concurrent:
            raise RateLimited(f"This key may run {caller.concurrent} requests at a time; wait until one has ended.")
        if caller.per_minute is not None:
            self._take(caller.key, caller.per_minute)
        self._running[caller.key] += 1
        try:
            yield
        finally:
            self._running[caller.key] -= 1

    def running(self, caller: Caller) -> int:
        """Requests of this key that have not ended."""
        return self._running[caller.key]

    def _take(self, key: str, per_minute: int) -> None:
        now = self._clock()
        bucket = self._buckets.setdefault(key, _Bucket(per_minute, now))
        bucket.tokens = min(per_minute, bucket.tokens + (now - bucket.filled) * per_minute / 60)
        bucket.filled = now
        if bucket.tokens < 1:
            wait = max(1, math.ceil((1 - bucket.tokens) * 60 / per_minute))
            raise RateLimited(f"This key may send {per_minute} requests a minute; try again in {wait} s.", wait)
        bucket.tokens -= 1
