"""What the routes of one app share, and how they ask for it."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from typing import Annotated

from anyio import CapacityLimiter
from fastapi import Depends, Request

from app.access.caller import Caller
from app.access.keyring import Keyring
from app.access.meter import Meter
from app.api.journal import Journal
from app.api.metrics import Metrics
from app.api.open_requests import OpenRequests
from app.api.tickets import Desk, Outbox
from app.errors import DeviceLost, ModelRejected, NotReady, OvertoneError
from app.jobs.command import training_command
from app.jobs.memory import shortage_on
from app.jobs.quotas import Quotas
from app.jobs.runner import Jobs
from app.jobs.store import JobStore
from app.jobs.visible import VisibleJobs
from app.service import Service, decoders
from app.settings import Settings

log = logging.getLogger(__name__)
# Worker threads of their own for what must not wait for others' requests, and for what would keep others waiting
MOST_PROBES, MOST_UNLOADS = 4, 4


class AppState:
    """The service once it is open, and what lives as long as the app.

    ``ears`` bounds the recordings decoded at a time, ``compilers`` the schemas tried out; ``on_failure`` is
    called when the model cannot be loaded.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.started = time.time()
        self.service: Service | None = None
        self.jobs: Jobs | None = None
        self.failure: Exception | None = None
        self.jobs_failure = ""
        self.on_failure: Callable[[], None] = lambda: None
        self.draining = False
        self.ears = CapacityLimiter(decoders(settings))
        self.compilers = CapacityLimiter(self.ears.total_tokens)
        self.preparing = 0
        self.metrics = Metrics()
        self.outbox: Outbox  # from `run` on, when there is a loop
        self.keyring = Keyring(settings.api_keys, settings.admin_keys, settings.keys_file)
        self.meter = Meter()
        self.requests = OpenRequests()
        self.probes = CapacityLimiter(MOST_PROBES)
        self.unloads = CapacityLimiter(MOST_UNLOADS)
        self.journal = Journal()
        self.begun = time.monotonic()

    async def open(self) -> None:
        """Load the model on a worker thread; `/health` answers meanwhile."""
        try:
            service = await asyncio.to_thread(Service.open, self.settings)
        except Exception as error:
            if isinstance(error, OvertoneError):  # its words say what to do; a traceback would hide them
                log.error("the service could not be opened: %s", error)
            else:
                log.exception("the service could not be opened")
            self.failure = error
            self.on_failure()
        else:
            self.metrics.watch(service.engine)
            self.metrics.watch_decoders([service.clip_readers, service.decoders])
            if service.shared is not None:
                self.metrics.watch_shared(service.shared)
            await asyncio.to_thread(self._open_jobs, service)
            self.service = service
            log.info("ready")

    def _open_jobs(self, service: Service) -> None:
        """Training needs a folder of its own; without it everything else is served."""
        jobs = _jobs_of(service)
        try:
            jobs.open()
        except OvertoneError as error:
            log.warning("no training jobs: %s", error)
            self.jobs_failure = str(error)
        else:
            self.metrics.watch_jobs(jobs)
            self.jobs = jobs

    async def watch(self) -> None:
        """Look at the keys file and the registry now and then; neither waits for the other."""
        await asyncio.gather(self._watch(self._look_at_keys), self._watch(self._look_at_registry))

    async def _watch(self, look: Callable[[], Awaitable[object]]) -> None:
        """An error is logged and the watch goes on."""
        while True:
            await asyncio.sleep(self.settings.watch_seconds)
            try:
                await look()
            except Exception:
                log.exception("a look at files or a store failed")

    async def _look_at_keys(self) -> None:
        """What a key asked for ends with the key."""
        self.requests.end(await asyncio.to_thread(self.keyring.refresh))

    async def _look_at_registry(self) -> None:
        if self.service is not None:
            await asyncio.to_thread(self._refresh, self.service)

    def _refresh(self, service: Service) -> None:
        service.registry.refresh()
        self.journal.look(service, self.jobs)

    async def run(self) -> None:
        """Open, then watch until cancelled."""
        self.outbox = Outbox(asyncio.get_running_loop())
        opening = asyncio.create_task(self.open())
        try:
            await asyncio.shield(opening)
            await self.watch()
        finally:
            await opening  # a model that is being loaded cannot be stopped, only closed afterwards

    async def end_requests(self) -> None:
        """Once the drain time is over, tell those who still wait, so that nobody is cut off without a word."""
        await asyncio.sleep(self.settings.drain_seconds)
        if self.service is not None:
            await asyncio.to_thread(self.service.engine.close)

    async def close(self) -> None:
        """Drain and close what was opened, all at the same time."""
        self.draining = True
        opened = [part for part in (self.jobs, self.service) if part is not None]
        await asyncio.gather(*(asyncio.to_thread(part.close) for part in opened))

    def ready(self) -> Service:
        """The open service.

        Raises NotReady while it loads, when it failed, and while it drains; DeviceLost when the device is.
        """
        if isinstance(self.failure, ModelRejected):
            raise NotReady(f"The model could not be loaded: {self.failure.reason}")
        if self.failure is not None:
            raise NotReady("The model could not be loaded; the server's log tells why.")
        if self.draining:
            raise NotReady("The server is shutting down; try again in a moment.")
        if self.service is None:
            raise NotReady("The model is still being loaded; try again in a moment.")
        if self.service.engine.lost:
            raise DeviceLost
        return self.service


def _jobs_of(service: Service) -> Jobs:
    """Training jobs over an open service: its model, its device, its registry."""
    settings = service.settings
    store = JobStore(settings.jobs)
    return Jobs(
        store,
        settings.max_jobs,
        quotas=Quotas(
            settings.max_waiting_jobs, settings.keep_jobs, int(settings.tenant_jobs_gb * 1e9), settings.job_hours
        ),
        command=lambda job: training_command(
            job, store, settings.adapters.absolute(), settings.model, settings.dataset_roots
        ),
        environment=settings.for_children(),
        shortage=lambda: shortage_on(service.loaded.device, service.engine.memory.weight_bytes),
        published=service.registry.refresh,
    )


async def stop(task: "asyncio.Task[None]") -> None:
    """Cancel a task and wait for its end."""
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


# The dependencies are coroutines: FastAPI runs others on worker threads, and probes would wait for a free one
async def _state(request: Request) -> AppState:
    state: AppState = request.app.state.overtone
    return state


State = Annotated[AppState, Depends(_state)]


async def caller_of(request: Request) -> Caller:
    """Who asks, as `Guard` found it."""
    caller: Caller = request.state.caller
    return caller


Who = Annotated[Caller, Depends(caller_of)]


async def _service(state: State, caller: Who) -> Service:
    return state.ready().seen_by(caller)


Ready = Annotated[Service, Depends(_service)]


async def _jobs(state: State, service: Ready) -> VisibleJobs:
    if state.jobs is None:
        raise NotReady(state.jobs_failure)
    return VisibleJobs(state.jobs, service.registry)


JobRunner = Annotated[VisibleJobs, Depends(_jobs)]


async def _desk(state: State, service: Ready) -> AsyncIterator[Desk]:
    """Where requests are handed in. Whatever ends the HTTP request ends what it asked of the engine."""
    desk = Desk(service, state.metrics, state.outbox)
    try:
        yield desk
    finally:
        desk.close()


RequestDesk = Annotated[Desk, Depends(_desk)]
