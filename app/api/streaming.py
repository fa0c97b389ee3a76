"""From HTTP requests on the event loop to sequences on the engine's thread, and their events back."""

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import suppress

from app.api.metrics import Metrics
from app.api.middleware import traces
from app.engine.request import Done, Event, Failed, Token
from app.service import GenerationInput, Service
from app.service.generation import unwrap


class EventDispatcher:
    """Passes events from the engine's thread to the event loop, which wakes once for all events of a step."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._events: deque[tuple[Callable[[Event], None], Event]] = deque()
        self._woken = False

    def put(self, receiver: Callable[[Event], None], event: Event) -> None:
        """Have the loop call ``receiver``. Runs on the engine's thread."""
        self._events.append((receiver, event))
        if not self._woken:
            self._woken = True
            with suppress(RuntimeError):  # the loop has closed: nothing waits for the event any more
                self._loop.call_soon_threadsafe(self._deliver)

    def _deliver(self) -> None:
        self._woken = False  # before the first is taken: a later one wakes the loop again
        while self._events:
            receiver, event = self._events.popleft()
            self._loop.call_soon(receiver, event)  # an error in one receiver does not reach the others


class Generation:
    """A submitted input, whose events can be awaited."""

    def __init__(self, asked: GenerationInput, metrics: Metrics, dispatcher: EventDispatcher) -> None:
        self.input = asked
        self._metrics = metrics
        self._dispatcher = dispatcher
        self._trace = traces.CURRENT.get()
        self._events: asyncio.Queue[Event] = asyncio.Queue()
        self.id = ""  # of its request; the request itself would be a reference cycle, for its `emit` refers to this

    def emit(self, event: Event) -> None:
        """Queue an event. Runs on the engine's thread."""
        self._dispatcher.put(self._receive, event)

    async def events(self) -> AsyncIterator[Token | Done]:
        """Events up to `Done`. Raises the error of a request that failed."""
        while True:
            event = unwrap(await self._events.get())
            yield event
            if isinstance(event, Done):
                return

    async def all(self) -> tuple[list[Token], Done]:
        """All tokens and the end. Raises the error of a request that failed."""
        tokens: list[Token] = []
        async for event in self.events():
            if isinstance(event, Done):
                return tokens, event
            tokens.append(event)
        raise AssertionError("events end with Done")

    async def done(self) -> Done:
        """The end. Raises the error of a request that failed."""
        _, done = await self.all()
        return done

    def _receive(self, event: Event) -> None:
        if isinstance(event, Done | Failed):
            asked = self.input
            if self._trace is not None:
                self._trace.answered(asked.adapters, event)
            self._metrics.ended(asked.adapters, event, asked.decoding_seconds, asked.audio_seconds)
        self._events.put_nowait(event)


class Submitter:
    """Submits the inputs of one HTTP request; `close` cancels those that still run."""

    def __init__(self, service: Service, metrics: Metrics, dispatcher: EventDispatcher) -> None:
        self._service = service
        self._metrics = metrics
        self._dispatcher = dispatcher
        self._deadline = time.monotonic() + service.settings.request_seconds
        self._ids: list[str] = []

    async def submit(self, asked: GenerationInput) -> Generation:
        """Queue an input. Raises what `Service.request` and `Engine.submit` raise."""
        generation = Generation(asked, self._metrics, self._dispatcher)
        # rendering and tokenising take milliseconds for long prompts: off the event loop
        request = await asyncio.to_thread(self._service.request, asked, generation.emit, self._deadline)
        generation.id = request.id
        self._service.engine.submit(request)
        self._ids.append(request.id)
        return generation

    def close(self) -> None:
        """Cancel all that was submitted."""
        for request_id in self._ids:
            self._service.engine.cancel(request_id)
