"""Requests that are being answered, by key, so that those of a revoked key can be ended."""

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager

from app.errors import Unauthorized


class Revoked(Unauthorized):
    """The key of a request that is being answered is no longer good, or no longer for the same."""

    def __init__(self) -> None:
        super().__init__("This key was revoked, or allows something else now; the request was ended.")


class OpenRequests:
    """Used on the event loop alone."""

    def __init__(self) -> None:
        self._timeouts: dict[str, set[asyncio.Timeout]] = {}

    @asynccontextmanager
    async def of(self, key: str) -> AsyncIterator[None]:
        """Hold a request. Raises Revoked once `end` names its key."""
        timeout = asyncio.timeout(None)
        try:
            async with timeout:
                self._timeouts.setdefault(key, set()).add(timeout)
                try:
                    yield
                finally:
                    self._timeouts[key].discard(timeout)
                    if not self._timeouts[key]:
                        del self._timeouts[key]
        except TimeoutError:
            if timeout.expired():
                raise Revoked from None
            raise

    def end(self, keys: Iterable[str]) -> None:
        """End all requests of these keys."""
        now = asyncio.get_running_loop().time()
        for key in keys:
            for timeout in self._timeouts.get(key, ()):
                timeout.reschedule(now)
