"""The state that all routes of an app share, and the dependencies by which they get it."""

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
from app.api.fair_semaphore import FairSemaphore
from app.api.journal import Journal
from app.api.metrics import Metrics
from app.api.open_requests import OpenRequests
from app.api.streaming import EventDispatcher, Submitter
from app.errors import DeviceLost, FeedbackOff, ModelRejected, NotReady, OvertoneError
from app.feedback.recent import RecentRequests
from app.feedback.store import FeedbackStore
from app.feedback.tenant_view import TenantFeedback
from app.jobs.command import training_command
from app.jobs.memory import shortage_on
from app.jobs.quotas import Quotas
from app.jobs.runner import Jobs
from app.jobs.store import JobStore
from app.jobs.tenant_view import TenantJobs
from app.models.shape import shape_of
from app.models.training_memory import least_training_bytes
from app.service import Service
from app.service.decoding import decoding_processes
from app.settings import Settings

log = logging.getLogger(__name__)
# Worker threads of their own for what must not wait for others' requests, and for what would keep others waiting
MOST_PROBES, MOST_UNLOADS, MOST_FILES = 4, 4, 4
EXPIRE_S = 600.0  # between two looks for feedback that is too old


class TenantLimiters:
    """A limit of ``each`` worker threads per tenant, so that long work of one tenant delays no other.

    Callers of no tenant share one limiter.
    """

    def __init__(self, each: int) -> None:
        self._each = each
        self._limiters: dict[str | None, CapacityLimiter] = {}

    def of(self, caller: Caller) -> CapacityLimiter:
        """The limiter of a caller's tenant. Used on the event loop alone."""
        if caller.tenant not in self._limiters:
            self._limiters[caller.tenant] = CapacityLimiter(self._each)
        return self._limiters[caller.tenant]


class AppState:
    """The service once it is open, and all else that lives as long as the app.

    ``decoding_limiter`` bounds the recordings decoded at a time; tenants wait for it by ``decoding_turns``.
    ``schema_limiter`` bounds the JSON schemas compiled at a time. ``on_ready`` runs once the service is open,
    ``on_failure`` when the model cannot be loaded.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.started = time.time()
        self.service: Service | None = None
        self.jobs: Jobs | None = None
        self.feedback: FeedbackStore | None = None
        if settings.feedback is not None:
            self.feedback = FeedbackStore(settings.feedback, settings.feedback_mb << 20, settings.feedback_days)
        self.recent = RecentRequests(settings.feedback_recent_mb << 20)
        self.failure: Exception | None = None
        self.jobs_failure = ""
        self.on_ready: Callable[[], object] = lambda: None
        self.on_failure: Callable[[], None] = lambda: None
        self.draining = False
        processes = decoding_processes(settings)
        self.decoding_limiter = CapacityLimiter(processes)
        self.decoding_turns = FairSemaphore(processes)
        self.schema_limiter = CapacityLimiter(processes)
        self.preparing = 0
        self.metrics = Metrics()
        self.dispatcher: EventDispatcher  # set by `run`, which has a loop
        self.keyring = Keyring(settings.api_keys, settings.admin_keys, settings.keys_file)
        self.meter = Meter(tenant_most=settings.most_of_a_tenant())
        self.requests = OpenRequests()
        self.probe_limiter = CapacityLimiter(MOST_PROBES)
        self.unload_limiters = TenantLimiters(MOST_UNLOADS)
        self.file_limiters = TenantLimiters(MOST_FILES)
        self.journal = Journal()
        self.begun = time.monotonic()

    async def open(self) -> None:
        """Load the model on a worker thread; `/health` answers meanwhile."""
        try:
            service = await asyncio.to_thread(_open, self.settings)
        except Exception as error:
            if isinstance(error, OvertoneError):  # its words say what to do; a traceback would hide them
                log.error("the service could not be opened: %s", error)
            else:
                log.exception("the service could not be opened")
            self.failure = error
            self.on_failure()
        else:
            self.metrics.watch(service.engine)
            self.metrics.watch_decoders([service.readers.clips, service.readers.samples])
            if service.shared is not None:
                self.metrics.watch_shared(service.shared)
            await asyncio.to_thread(self._open_jobs, service)
            await asyncio.to_thread(self._open_feedback)
            await asyncio.to_thread(self.on_ready)
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

    def _open_feedback(self) -> None:
        """A folder that cannot be used is an error of each request for it; everything else is served."""
        if self.feedback is not None:
            try:
                self.feedback.open()
            except OvertoneError as error:
                log.warning("no feedback: %s", error)

    async def watch(self) -> None:
        """Watch the keys file, the registry and the age of feedback; none waits for another."""
        every = self.settings.watch_seconds
        await asyncio.gather(
            self._watch(self._look_at_keys, every),
            self._watch(self._look_at_registry, every),
            self._watch(self._look_at_feedback, EXPIRE_S),
        )

    async def _watch(self, look: Callable[[], Awaitable[object]], every_s: float) -> None:
        """An error is logged and the watch goes on."""
        while True:
            await asyncio.sleep(every_s)
            try:
                await look()
            except Exception:
                log.exception("watching files or a store failed")

    async def _look_at_keys(self) -> None:
        """The requests of a revoked key end with it."""
        self.requests.end(await asyncio.to_thread(self.keyring.refresh))

    async def _look_at_registry(self) -> None:
        if self.service is not None:
            await asyncio.to_thread(self._refresh, self.service)

    async def _look_at_feedback(self) -> None:
        if self.feedback is not None:
            await asyncio.to_thread(self.feedback.expire)

    def _refresh(self, service: Service) -> None:
        service.registry.refresh()
        self.journal.look(service, self.jobs)

    async def run(self) -> None:
        """Open, then watch until cancelled."""
        self.dispatcher = EventDispatcher(asyncio.get_running_loop())
        opening = asyncio.create_task(self.open())
        try:
            await asyncio.shield(opening)
            await self.watch()
        finally:
            await opening  # a model that is being loaded cannot be stopped, only closed afterwards

    async def end_requests(self) -> None:
        """Fail the requests that still run once the drain time is over, so that their clients get an error."""
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
            raise NotReady("The model could not be loaded; the server's log has the reason.")
        if self.draining:
            raise NotReady("The server is shutting down; try again in a moment.")
        if self.service is None:
            raise NotReady("The model is still being loaded; try again in a moment.")
        if self.service.engine.lost:
            raise DeviceLost
        return self.service


def _open(settings: Settings) -> Service:
    """A service whose decoding processes answer. Blocking."""
    service = Service.open(settings)
    try:
        service.wait_for_decoders()
    except OvertoneError:
        service.close()
        raise
    return service


def _jobs_of(service: Service) -> Jobs:
    """Training jobs over an open service: its model, its device, its registry."""
    settings = service.settings
    store = JobStore(settings.jobs)
    loaded = service.loaded
    needed = least_training_bytes(shape_of(loaded.model.config, loaded.spec), loaded.dtype.itemsize)
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
        shortage=lambda: shortage_on(service.loaded.device, needed),
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
    """The caller that `Guard` has recognised."""
    caller: Caller = request.state.caller
    return caller


Who = Annotated[Caller, Depends(caller_of)]


async def _service(state: State, caller: Who) -> Service:
    return state.ready().seen_by(caller)


Ready = Annotated[Service, Depends(_service)]


async def _jobs(state: State, service: Ready) -> TenantJobs:
    if state.jobs is None:
        raise NotReady(state.jobs_failure)
    return TenantJobs(state.jobs, service.registry)


JobRunner = Annotated[TenantJobs, Depends(_jobs)]


def feedback_of(state: AppState, caller: Caller) -> TenantFeedback:
    """The feedback of a caller. Raises FeedbackOff."""
    if state.feedback is None:
        raise FeedbackOff
    return TenantFeedback(state.feedback, state.recent, caller)


async def _feedback(state: State, caller: Who) -> TenantFeedback:
    return feedback_of(state, caller)


Feedback = Annotated[TenantFeedback, Depends(_feedback)]


async def _submitter(state: State, service: Ready) -> AsyncIterator[Submitter]:
    """Any end of the HTTP request cancels its work in the engine."""
    submitter = Submitter(service, state.metrics, state.dispatcher)
    try:
        yield submitter
    finally:
        submitter.close()


Submit = Annotated[Submitter, Depends(_submitter)]
