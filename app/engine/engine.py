"""The engine: one thread that owns the GPU and steps all running sequences together.

A request's way: `submit` → inbox → scheduler (waiting) → `_claim` (its adapters get slots) → running →
`_launch` once per step → `_land` (text, stop, limits) → events, until `_finish`. On CUDA a step is queued
before the last one's tokens are read. What a classification hears goes another way, through `listening`.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

import torch

from app.engine.faults import fault_of
from app.engine.host_cache import HostCache
from app.engine.limits import EngineLimits
from app.engine.listening import Listening
from app.engine.memory import MemoryPlan
from app.engine.pages import PagePool
from app.engine.request import Done, Failed, Listened, Request, Sequence, Token, check
from app.engine.residency import Residency
from app.engine.runner import Runner
from app.engine.sampler import Choice, Drawn
from app.engine.scheduler import Chunk, Claim, Scheduler
from app.engine.slots import SlotTable
from app.engine.stats import EngineStats
from app.engine.tasks import Pieces, Task, Tasks
from app.engine.text import TextStream
from app.errors import (
    DeadlineExceeded,
    DeviceLost,
    EngineFault,
    NotReady,
    OutOfMemory,
    OvertoneError,
    QueueFull,
)
from app.model.base import LoadedModel, combine_checksums, weight_checksums
from app.model.features import Clip
from app.model.prompt import PromptRenderer
from app.registry.registry import Registry

log = logging.getLogger(__name__)
T = TypeVar("T")
BACKGROUND_SHARE = 0.1
_CLOSING = "The server is shutting down; try again in a moment."
_FAILED = "This request failed inside the model; others go on."


class Engine:
    """Continuous batching over one resident model. Public methods may be called from any thread."""

    def __init__(self, loaded: LoadedModel, registry: Registry, limits: EngineLimits, memory: MemoryPlan) -> None:
        self.limits = limits
        self.memory = memory
        self.stats = EngineStats()
        self.runner = Runner(loaded, registry, limits, memory)
        host = HostCache(registry, loaded.dtype, limits.host_cache_bytes, self._wake)
        self.residency = Residency(SlotTable(limits.max_resident), host, self.runner)
        self.scheduler = Scheduler(PagePool(memory.pages, memory.page_size), limits.max_batch, limits.step_tokens)
        self._model = loaded.model
        self._prompt = PromptRenderer(loaded.processor)
        self._sequences: dict[str, Sequence] = {}
        self._flights: deque[tuple[list[Sequence], Drawn]] = deque()  # steps whose tokens nobody has read yet
        self._inbox: deque[Callable[[], None]] = deque()
        self._changed = threading.Condition()
        self.listening = Listening(lambda clip: self.runner.moments(clip), self._met, self.stats, self._changed)
        self._background = Tasks(self._met)
        self._open = self._stopping = self._woken = self._cramped = False
        self.lost = False  # the device failed for good: only a new process helps
        self._warm: Future[None] = Future()
        self._thread = threading.Thread(target=self._run, name="overtone-engine", daemon=True)

    @property
    def room(self) -> int:
        """Tokens that one request may hold, prompt and answer together."""
        positions: int = self._model.config.get_text_config().max_position_embeddings
        return min(self.limits.max_context, self.scheduler.pool.tokens, positions)

    # -- from any thread --------------------------------------------------------------------------

    def start(self) -> None:
        """Start the thread and wait until it is warm. Raises what went wrong there; nothing is left running then."""
        self._thread.start()
        try:
            self._warm.result()
        except BaseException:
            self.close()
            raise
        self._open = True

    def submit(self, request: Request) -> None:
        """Queue a request; its events come through ``request.emit``.

        Raises PromptTooLong, BadRequest, QueueFull or NotReady, and then emits nothing.
        """
        check(request, self.room, self.limits.max_resident)
        with self._changed:
            self.refuse_if_full()
            stream = TextStream(self._prompt.decode, request.sampling.stop)
            sequence = Sequence(request, stream, time.monotonic())
            self._sequences[request.id] = sequence
            self._inbox.append(lambda: self._enter(sequence))
            self._changed.notify()

    def listen(self, clips: tuple[Clip, ...], deadline: float = float("inf")) -> "Future[Listened]":
        """What classification heads hear of clips. The future fails as a request does; cancel it to give up.

        Raises QueueFull or NotReady. ``deadline``: `time.monotonic` seconds.
        """
        with self._changed:
            self.refuse_if_full()
            task = self.listening.expect(clips, deadline)
            self._inbox.append(lambda: self.listening.tasks.add(task))
            self._changed.notify()
        task.future.add_done_callback(self.listening.left)
        return task.future

    def refuse_if_full(self, coming: int = 0) -> None:
        """Raises NotReady, DeviceLost, or QueueFull where ``coming`` more, on their way here, would fill the line."""
        if self.lost:
            raise DeviceLost
        if not self._open:
            raise NotReady(_CLOSING)
        if self._in_line + coming >= self.limits.max_queue + self.limits.max_batch:
            self.stats.rejected += 1
            raise QueueFull(f"{self._in_line + coming} requests are in line already; try again shortly.")

    def cancel(self, request_id: str) -> None:
        """End a request before the next step; its pages are free again at once. Unknown ids are ignored."""
        if sequence := self._sequences.get(request_id):
            sequence.cancelled = True
            self._wake()

    def call(self, function: Callable[[], T]) -> "Future[T]":
        """Run ``function`` on the engine's thread between two steps."""
        future: Future[T] = Future()

        def run() -> None:
            try:
                future.set_result(function())
            except Exception as error:
                future.set_exception(error)

        with self._changed:
            if self.lost:
                raise DeviceLost
            if self._stopping or not self._thread.is_alive():
                raise NotReady("The engine is not running.")
            self._inbox.append(run)
            self._changed.notify()
        return future

    def free_slots(self, name: str | None = None) -> "Future[list[str]]":
        """Free the slots of one adapter, or of all, that no running request uses; returns their uids."""
        return self.call(lambda: self.residency.free(name))

    def fingerprint(self) -> "Future[str]":
        """Fingerprint of the base weights as they lie in memory now, one tensor between two steps."""

        def pieces() -> Pieces[str]:
            lines = []
            for line in weight_checksums(self._model):
                lines.append(line)
                yield
            return combine_checksums(lines)

        task = Task(pieces())
        self.call(lambda: self._background.add(task))
        return task.future

    def drain(self, seconds: float) -> bool:
        """Take no more requests and wait for those in line; False when time ran out first."""
        with self._changed:
            self._open = False
            return self._changed.wait_for(lambda: not self._in_line, seconds)

    def close(self) -> None:
        """Stop the thread; what is still running fails with NotReady."""
        with self._changed:
            self._open, self._stopping = False, True
            self._changed.notify_all()
        if self._thread.is_alive():
            self._thread.join()
        self.residency.host.close()

    @property
    def _in_line(self) -> int:
        return len(self._sequences) + len(self.listening)

    # -- on the engine's thread -------------------------------------------------------------------

    def _run(self) -> None:
        with torch.inference_mode():
            try:
                self.runner.warm_up()
            except BaseException as error:
                return self._warm.set_exception(error)  # `start` raises it
            self._warm.set_result(None)
            while not (self._stopping or self.lost):
                try:
                    self._turn()
                except Exception as error:  # a fault of ours: whoever runs is told, the thread lives on
                    self._flights.clear()
                    self._fail_all(self._met(error, "The engine met a fault; the request may be sent again."))
            self._end_all()

    def _end_all(self) -> None:
        """The last that the thread does: nobody waits for an answer that will not come."""
        with self._changed:
            self._open, self._stopping = False, True
        reason = DeviceLost() if self.lost else NotReady(_CLOSING)
        self._take_inbox()
        self._fail_all(reason)
        for tasks in (self.listening.tasks, self._background):
            tasks.fail_all(reason)

    def _met(self, error: Exception, failed: str = _FAILED) -> OvertoneError:
        """What those are told whom ``error`` hit, and what it means for the engine."""
        fault = fault_of(error, failed)
        if fault is not error:
            log.error("%s", failed, exc_info=error)
        self._cramped |= isinstance(fault, OutOfMemory)
        if isinstance(fault, DeviceLost):
            self.lost = True
        elif isinstance(fault, EngineFault | OutOfMemory) and not self.runner.alive():
            log.critical("the device is lost; nothing is answered until the process is restarted")
            self.lost, fault = True, DeviceLost()
        return fault

    def _relieve(self) -> None:
        """Free memory after a failed allocation. Not while its exception is handled: that still holds tensors."""
        if self._cramped and not self.lost:
            self._cramped = False
            self.runner.free_memory()

    def _turn(self) -> None:
        """Everything that happens between two steps, and a step."""
        begun = time.monotonic()
        self._relieve()
        self._take_inbox()
        self._drop_ended()
        loading = self.residency.advance()
        chunks = self.scheduler.plan(self._claim)
        if chunks:
            self._step(chunks)
        idle = not (chunks or self._flights)
        self._land(1 if chunks and self.runner.overlaps else 0)
        self.listening.tasks.advance()
        self._look_after_background(time.monotonic() - begun)
        if idle and not (loading or self.runner.catch_up()):
            self._wait()

    def _look_after_background(self, turn: float) -> None:
        """Pieces of it for a share of the ``turn`` so far, s: under load too it ends, and nobody's token waits long."""
        until = time.monotonic() + BACKGROUND_SHARE * turn
        self._background.advance()
        while self._background and time.monotonic() < until:
            self._background.advance()

    def _fail_all(self, error: OvertoneError) -> None:
        for sequence in list(self._sequences.values()):
            self._fail(sequence, error)

    def _enter(self, sequence: Sequence) -> None:
        if sequence.request.id in self._sequences:  # not ended while it lay in the inbox
            self.scheduler.add(sequence)

    def _step(self, chunks: list[Chunk]) -> None:
        """One step for all; a chunk that makes it fail is found by stepping each alone."""
        begun = time.monotonic()
        if self._attempt(chunks) is not None:
            self._land()
            self._step_each(chunks)
        self.stats.step(len(chunks), time.monotonic() - begun)

    def _step_each(self, chunks: list[Chunk]) -> None:
        """Writing the same tokens again to the same pages changes nothing, so a retry is safe."""
        for chunk in chunks:
            if self.lost:
                return
            if chunk.sequence.request.id not in self._sequences:
                continue
            if fault := self._attempt([chunk]):
                self._fail(chunk.sequence, fault)
            self._land()

    def _attempt(self, chunks: list[Chunk]) -> OvertoneError | None:
        """Queue a step; why it failed, if it did."""
        fault = None
        try:
            self._launch(chunks)
        except Exception as error:
            names = ", ".join(chunk.sequence.request.id for chunk in chunks)
            log.warning("a step failed for %s", names)
            fault = self._met(error)
        self._relieve()
        return fault

    def _launch(self, chunks: list[Chunk]) -> None:
        """Queue a step, and count as done what it will do; `_land` reads its tokens."""
        drawn = self.runner.launch(chunks)
        for chunk in chunks:
            chunk.sequence.computed += chunk.tokens
            chunk.sequence.flying += chunk.final
        self._flights.append(([chunk.sequence for chunk in chunks if chunk.final], drawn))

    def _land(self, under_way: int = 0) -> None:
        """Hand each sequence the tokens of finished steps, all but the last ``under_way``."""
        while len(self._flights) > under_way:
            sequences, drawn = self._flights.popleft()
            for sequence in sequences:
                sequence.flying -= 1
            for sequence, choice in zip(sequences, drawn.result(), strict=True):
                if sequence.request.id not in self._sequences:
                    continue  # ended after the step was queued
                try:
                    self._take_choice(sequence, choice)
                except Exception as error:  # of its grammar or its text: nobody else's business
                    self._fail(sequence, self._met(error))

    def _take_choice(self, sequence: Sequence, choice: Choice | None) -> None:
        if choice is None:
            grammar = sequence.request.grammar
            error = grammar.error if grammar else None
            self._fail(sequence, error or EngineFault("The model's output was not finite (NaN or overflow)."))
        else:
            self._take_token(sequence, choice)

    def _take_token(self, sequence: Sequence, choice: Choice) -> None:
        now, sampling = time.monotonic(), sequence.request.sampling
        token, grammar = choice.token, sequence.request.grammar
        if sequence.first_token is None:
            sequence.first_token = now
        sequence.tokens.append(token)
        if token in self._prompt.eos_ids and not sampling.ignore_eos:
            return self._finish(sequence, "stop")
        self.stats.generated_tokens += 1
        if grammar:
            grammar.accept(token)
        _emit(sequence, Token(token, sequence.stream.push(token), choice.logprobs))
        if sequence.stream.stopped or (grammar and grammar.finished):
            self._finish(sequence, "stop")
        elif sequence.new_tokens >= sampling.max_new_tokens:
            self._finish(sequence, "length")

    def _claim(self, sequence: Sequence) -> Claim:
        """Slots for a waiting sequence; one whose adapter cannot be read fails here."""
        try:
            answer = self.residency.claim(sequence)
        except Exception as error:
            self._fail(sequence, self._met(error, "The adapter could not be loaded onto the device; others go on."))
            return Claim.LOADING
        if answer is Claim.READY and sequence.admitted is None:
            sequence.admitted = time.monotonic()
        return answer

    def _drop_ended(self) -> None:
        """Cancelled and overdue sequences leave before the next step."""
        now = time.monotonic()
        for sequence in list(self._sequences.values()):
            if sequence.cancelled:
                self._finish(sequence, "cancelled")
            elif now > sequence.request.deadline:
                self._fail(sequence, DeadlineExceeded("The request took longer than this server allows."))

    def _finish(self, sequence: Sequence, reason: str) -> None:
        """End a sequence well: everything it held is free before its last event is sent."""
        rest = sequence.stream.finish()
        self._release(sequence)
        if rest and reason != "cancelled":
            _emit(sequence, Token(None, rest))
        self.stats.finished += 1
        self._end(sequence, sequence.done(reason, time.monotonic()))

    def _fail(self, sequence: Sequence, error: OvertoneError) -> None:
        self._release(sequence)
        self.stats.failed += 1
        self._end(sequence, Failed(error))

    def _end(self, sequence: Sequence, event: Done | Failed) -> None:
        with self._changed:
            self._sequences.pop(sequence.request.id, None)
            self._changed.notify_all()
        _emit(sequence, event)

    def _release(self, sequence: Sequence) -> None:
        self.scheduler.remove(sequence)
        self.runner.forget(sequence)
        self.residency.release(sequence)

    def _take_inbox(self) -> None:
        with self._changed:
            messages = list(self._inbox)
            self._inbox.clear()
        for message in messages:
            message()

    def _wait(self) -> None:
        """Sleep until something changes; at most until deadlines are worth another look."""
        with self._changed:
            busy = self._inbox or self.listening.tasks or self._background
            if not (self._woken or busy or self._stopping):
                self._changed.wait(0.1 if self._sequences else None)
            self._woken = False

    def _wake(self) -> None:
        with self._changed:
            self._woken = True
            self._changed.notify_all()


def _emit(sequence: Sequence, event: Token | Done | Failed) -> None:
    """Hand over an event; a receiver that fails ends its own request."""
    try:
        sequence.request.emit(event)
    except Exception:
        log.exception("the receiver of request %s failed", sequence.request.id)
        sequence.cancelled = True
