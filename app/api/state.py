"""What the routes of one app share, and how they ask for it."""

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from typing import Annotated

from anyio import CapacityLimiter
from fastapi import Depends, Request

from app.api.metrics import Metrics
from app.api.tickets import Desk
from app.errors import NotReady
from app.service import Service
from app.settings import Settings

log = logging.getLogger(__name__)


class AppState:
    """The service once it is open, and what lives as long as the app.

    ``ears`` bounds the recordings decoded at a time; ``on_failure`` is called when the model cannot
    be loaded.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.service: Service | None = None
        self.failure: Exception | None = None
        self.on_failure: Callable[[], None] = lambda: None
        self.draining = False
        self.ears = CapacityLimiter(settings.cpu_threads or os.cpu_count() or 1)
        self.preparing = 0
        self.metrics = Metrics()

    async def open(self) -> None:
        """Load the model on a worker thread; `/health` answers meanwhile."""
        try:
            service = await asyncio.to_thread(Service.open, self.settings)
        except Exception as error:
            log.exception("the service could not be opened")
            self.failure = error
            self.on_failure()
        else:
            self.metrics.watch(service.engine)
            self.service = service
            log.info("ready")

    async def watch(self) -> None:
        """Look at the registry folder now and then; an error is logged and the watch goes on."""
        while True:
            await asyncio.sleep(self.settings.watch_seconds)
            if self.service is None:
                continue
            try:
                await asyncio.to_thread(self.service.registry.refresh)
            except Exception:
                log.exception("the registry folder could not be looked at")

    async def run(self) -> None:
        """Open, then watch until cancelled."""
        opening = asyncio.create_task(self.open())
        try:
            await asyncio.shield(opening)
            await self.watch()
        finally:
            await opening  # a model that is being loaded cannot be stopped, only closed afterwards

    async def close(self) -> None:
        """Drain and close what was opened."""
        self.draining = True
        if self.service is not None:
            await asyncio.to_thread(self.service.close)

    def ready(self) -> Service:
        """The open service. Raises NotReady while it loads, when it failed, and while it drains."""
        if self.draining:
            raise NotReady("The server is shutting down; try again in a moment.")
        if self.failure is not None:
            raise NotReady("The model could not be loaded; the server's log tells why.")
        if self.service is None:
            raise NotReady("The model is still being loaded; try again in a moment.")
        return self.service


async def stop(task: "asyncio.Task[None]") -> None:
    """Cancel a task and wait for its end."""
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


def _state(request: Request) -> AppState:
    state: AppState = request.app.state.overtone
    return state


State = Annotated[AppState, Depends(_state)]


def _service(state: State) -> Service:
    return state.ready()


Ready = Annotated[Service, Depends(_service)]


async def _desk(state: State, service: Ready) -> AsyncIterator[Desk]:
    """Where requests are handed in. Whatever ends the HTTP request ends what it asked of the engine."""
    desk = Desk(service, state.metrics)
    try:
        yield desk
    finally:
        desk.close()


RequestDesk = Annotated[Desk, Depends(_desk)]
