"""The limits of one key: requests at a time, and requests per minute."""

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

    A bucket holds what one minute allows and fills evenly. ``tenant_most``: requests at a time of all keys of one
    tenant together; None is no limit.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic, tenant_most: int | None = None) -> None:
        self.tenant_most = tenant_most
        self._clock = clock
        self._tenants: Counter[str] = Counter()
        self._buckets: dict[str, _Bucket] = {}
        self._running: Counter[str] = Counter()

    @contextmanager
    def admitted(self, caller: Caller) -> Iterator[None]:
        """Count a request for as long as it lasts, however it ends. Raises RateLimited."""
        if caller.concurrent is not None and self._running[caller.key] >= caller.concurrent:
            raise RateLimited(f"This key may run {caller.concurrent} requests at a time; wait until one has ended.")
        tenant = caller.tenant or ""
        if tenant and self.tenant_most is not None and self._tenants[tenant] >= self.tenant_most:
            raise RateLimited(
                f"{self.tenant_most} requests of your tenant run or wait, and more may not "
                "(OVERTONE_TENANT_REQUESTS); wait until one has ended."
            )
        if caller.per_minute is not None:
            self._take(caller.key, caller.per_minute)
        self._running[caller.key] += 1
        self._tenants[tenant] += 1
        try:
            yield
        finally:
            self._running[caller.key] -= 1
            self._tenants[tenant] -= 1

    def running(self, caller: Caller) -> int:
        """Requests of this key that have not ended."""
        return self._running[caller.key]

    def running_of_tenants(self) -> dict[str, int]:
        """Requests that have not ended, of each tenant that has any."""
        return {tenant: count for tenant, count in self._tenants.items() if tenant and count}

    def _take(self, key: str, per_minute: int) -> None:
        now = self._clock()
        bucket = self._buckets.setdefault(key, _Bucket(per_minute, now))
        bucket.tokens = min(per_minute, bucket.tokens + (now - bucket.filled) * per_minute / 60)
        bucket.filled = now
        if bucket.tokens < 1:
            wait = max(1, math.ceil((1 - bucket.tokens) * 60 / per_minute))
            raise RateLimited(f"This key may send {per_minute} requests a minute; try again in {wait} s.", wait)
        bucket.tokens -= 1
