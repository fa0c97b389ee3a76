"""Between HTTP requests on the event loop and sequences on the engine's thread."""

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TypeVar

from fastapi import Request as HttpRequest

from app.api import traces
from app.api.metrics import Metrics
from app.engine.grammar import Grammar
from app.engine.request import Done, Event, Failed, Sampling, Share, Token
from app.model.prompt import Message
from app.service import Service

T = TypeVar("T")


class Disconnected(Exception):
    """The client went away; nobody reads the answer."""


@dataclass(frozen=True)
class Question:
    """One conversation to continue with these adapters. ``heard_s``: what preparing its audio took.

    ``fit``: shorten the answer to the room that the prompt leaves, rather than refuse.
    """

    messages: Sequence[Message]
    shares: tuple[Share, ...]
    sampling: Sampling
    heard_s: float
    audio_seconds: float
    grammar: Grammar | None = None
    fit: bool = False


class Outbox:
    """Events on their way from the engine's thread to the event loop, which is woken once for all of a step."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._events: deque[tuple[Callable[[Event], None], Event]] = deque()
        self._woken = False

    def put(self, receiver: Callable[[Event], None], event: Event) -> None:
        """Called on the engine's thread."""
        self._events.append((receiver, event))
        if not self._woken:
            self._woken = True
            with suppress(RuntimeError):  # the loop has closed: nobody waits any more
                self._loop.call_soon_threadsafe(self._deliver)

    def _deliver(self) -> None:
        self._woken = False  # before the first is taken: a later one wakes the loop again
        while self._events:
            receiver, event = self._events.popleft()
            self._loop.call_soon(receiver, event)  # one that fails takes no other along


class Ticket:
    """A submitted question, whose events can be awaited."""

    def __init__(self, question: Question, metrics: Metrics, outbox: Outbox) -> None:
        self.question = question
        self._metrics = metrics
        self._outbox = outbox
        self._trace = traces.CURRENT.get()
        self._events: asyncio.Queue[Event] = asyncio.Queue()
        self.id = ""  # of its request, once there is one; not the request, whose `emit` holds this: that were a cycle

    def emit(self, event: Event) -> None:
        """Called on the engine's thread."""
        self._outbox.put(self._arrive, event)

    async def events(self) -> AsyncIterator[Token | Done]:
        """Events up to `Done`. Raises the error of a request that failed."""
        while True:
            event = await self._events.get()
            if isinstance(event, Failed):
                raise event.error
            yield event
            if isinstance(event, Done):
                return

    async def whole(self) -> tuple[list[Token], Done]:
        """Wait for all tokens and the end. Raises the error of a request that failed."""
        tokens: list[Token] = []
        async for event in self.events():
            if isinstance(event, Done):
                return tokens, event
            tokens.append(event)
        raise AssertionError("events end with Done")

    async def done(self) -> Done:
        """Wait for the end. Raises the error of a request that failed."""
        _, done = await self.whole()
        return done

    def _arrive(self, event: Event) -> None:
        if isinstance(event, Done | Failed):
            if self._trace is not None:
                self._trace.answered(self.question.shares, event)
            self._metrics.ended(self.question.shares, event, self.question.heard_s, self.question.audio_seconds)
        self._events.put_nowait(event)


class Desk:
    """Takes the questions of one HTTP request; closing it cancels those that still run."""

    def __init__(self, service: Service, metrics: Metrics, outbox: Outbox) -> None:
        self._service = service
        self._metrics = metrics
        self._outbox = outbox
        self._deadline = time.monotonic() + service.settings.request_seconds
        self._tickets: list[Ticket] = []

    async def submit(self, question: Question) -> Ticket:
        """Queue a question. Raises what `Service.request` and `Engine.submit` raise."""
        ticket = Ticket(question, self._metrics, self._outbox)
        # rendering and tokenising take milliseconds for long prompts: off the event loop
        request = await asyncio.to_thread(
            self._service.request,
            question.messages,
            question.shares,
            question.sampling,
            ticket.emit,
            self._deadline,
            question.grammar,
            question.fit,
        )
        ticket.id = request.id
        self._service.engine.submit(request)
        self._tickets.append(ticket)
        return ticket

    def close(self) -> None:
        for ticket in self._tickets:
            self._service.engine.cancel(ticket.id)


async def unless_gone(http: HttpRequest, *ends: Awaitable[T]) -> list[T | BaseException]:
    """What all come to, in order, an error in its place. Raises Disconnected when the client leaves.

    The body has been read, so the next message that the server can receive is the disconnect.
    """
    answers = asyncio.gather(*ends, return_exceptions=True)
    gone = asyncio.ensure_future(http.receive())
    try:
        await asyncio.wait((answers, gone), return_when=asyncio.FIRST_COMPLETED)
        if not answers.done():
            raise Disconnected
        return answers.result()
    finally:
        answers.cancel()
        gone.cancel()
