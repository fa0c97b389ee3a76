"""A semaphore that tenants share fairly."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class FairSemaphore:
    """``permits`` at a time. Waiting tenants get one by turns; within a tenant, first come, first served.

    Used on the event loop alone. Callers of no tenant count as one.
    """

    def __init__(self, permits: int) -> None:
        self._free = permits
        self._waiting: dict[str | None, deque[asyncio.Future[None]]] = {}

    @asynccontextmanager
    async def acquire(self, tenant: str | None) -> AsyncIterator[None]:
        """Wait for a permit and hold it inside."""
        await self._wait(tenant)
        try:
            yield
        finally:
            self._release()

    async def _wait(self, tenant: str | None) -> None:
        if self._free:
            self._free -= 1
            return
        granted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(tenant, deque()).append(granted)
        try:
            await granted
        except asyncio.CancelledError:
            if granted.done() and not granted.cancelled():  # granted at the same moment
                self._release()
            raise

    def _release(self) -> None:
        """Pass the permit to the tenant that has waited longest since its last one."""
        while self._waiting:
            tenant = next(iter(self._waiting))
            line = self._waiting.pop(tenant)
            granted = line.popleft()
            if line:
                self._waiting[tenant] = line  # behind all others
            if not granted.cancelled():
                granted.set_result(None)
                return
        self._free += 1
