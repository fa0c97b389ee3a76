"""The engine: one thread that owns the GPU and steps all running sequences together.

`submit` puts a request into the inbox. From there the engine's thread moves it to the scheduler, runs it in steps and
emits its events. Each step is three calls, in `Engine._step`: schedule, run, process outputs. On CUDA a step is queued
before the outputs of the one before are read. Pooled audio for classifiers takes another way, through `pooling`.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

import torch

from app.engine.active_sequences import ActiveSequences
from app.engine.background import Passes, Tasks
from app.engine.config import EngineConfig
from app.engine.detokenizer import Detokenizer
from app.engine.encoder.pooling import PoolingQueue
from app.engine.faults import FaultHandler
from app.engine.kv_cache.block_pool import BlockPool
from app.engine.lora.host_cache import HostCache
from app.engine.lora.manager import LoRAManager
from app.engine.lora.slots import SlotTable
from app.engine.memory import MemoryPlan
from app.engine.request import PooledAudio, Request, check_fits
from app.engine.runner import Runner
from app.engine.sampler import Drawn
from app.engine.scheduler import Admission, Chunk, Scheduler
from app.engine.sequence import Sequence
from app.engine.snapshot import EngineSnapshot
from app.engine.stats import EngineStats
from app.errors import DeviceLost, NotReady, OutOfMemory, OvertoneError, QueueFull
from app.models.features import Clip
from app.models.head import Moments
from app.models.loading import LoadedModel
from app.models.prompt import PromptRenderer
from app.registry.base import Registry

log = logging.getLogger(__name__)
T = TypeVar("T")
BACKGROUND_FRACTION = 0.1  # of the time that steps take
_CLOSING = "The server is shutting down; try again in a moment."
_ENGINE_FAILED = "The engine met a fault; the request may be sent again."
_LOAD_FAILED = "The adapter could not be loaded onto the device; others go on."


class Engine:
    """Continuous batching over one resident model. Public methods may be called from any thread.

    ``snapshot``: state for readers on other threads; ``stats``: counters that any thread may read.
    """

    def __init__(self, loaded: LoadedModel, registry: Registry, limits: EngineConfig, memory: MemoryPlan) -> None:
        self.limits = limits
        self.memory = memory
        self.stats = EngineStats()
        self.runner = Runner(loaded, limits, memory)
        host = HostCache(registry, loaded.dtype, limits.host_cache_bytes, self._wake)
        slots, fallback = SlotTable(limits.max_resident), self.runner.peft_fallback
        self.lora_manager = LoRAManager(slots, host, self.runner, fallback, memory.most_columns)
        self.scheduler = Scheduler(BlockPool(memory.blocks, memory.block_size), limits.max_batch, limits.step_tokens)
        positions: int = loaded.model.config.get_text_config().max_position_embeddings
        self.max_tokens_per_request = min(limits.max_context, self.scheduler.pool.tokens, positions)
        prompt = PromptRenderer(loaded.processor)
        self._decode = prompt.decode
        self._in_flight: deque[tuple[list[Sequence], Drawn]] = deque()  # steps whose outputs have not been read
        self._inbox: deque[Callable[[], None]] = deque()
        self._changed = threading.Condition()
        self._sequences = ActiveSequences(
            self.scheduler, self.runner, self.lora_manager, prompt.eos_ids, self.stats, self._changed, self._publish
        )
        self._faults = FaultHandler(self.runner)
        classify = self._faults.classify
        self.pooling = PoolingQueue(self._pool, classify, self.stats, self._changed)
        self._background = Tasks(classify)
        self._fingerprints = Passes(self._background, self.runner.fingerprint)
        self._open = self._stopping = self._woken = False
        self._warm: Future[None] = Future()
        self._thread = threading.Thread(target=self._run, name="overtone-engine", daemon=True)
        self._publish()

    @property
    def lost(self) -> bool:
        """True once the device has failed for good: only a new process helps."""
        return self._faults.lost

    # -- from any thread --------------------------------------------------------------------------

    def start(self) -> None:
        """Start the thread and wait until it is warm. Raises the error of the warm-up; no thread is left then."""
        self._thread.start()
        try:
            self._warm.result()
        except BaseException:
            self.close()
            raise
        self._open = True

    def submit(self, request: Request) -> None:
        """Queue a request; its events come through ``request.emit``.

        Raises PromptTooLong, BadRequest, QueueFull, DeviceLost or NotReady, and then emits nothing.
        """
        check_fits(request, self.max_tokens_per_request, self.limits.max_resident, self.memory.alone_tokens)
        with self._changed:
            self.refuse_if_full()
            sequence = Sequence(request, Detokenizer(self._decode, request.sampling.stop), time.monotonic())
            self._sequences.add(sequence)
            self._inbox.append(lambda: self._enter(sequence))
            self._changed.notify()

    def pool_audio(self, clips: tuple[Clip, ...], deadline: float = float("inf")) -> "Future[PooledAudio]":
        """Pooled encoder output of each clip, for classifiers. Cancelling the future gives it up.

        ``deadline``: `time.monotonic` seconds; after it the future fails with DeadlineExceeded.
        Raises QueueFull, DeviceLost or NotReady.
        """
        with self._changed:
            self.refuse_if_full()
            task = self.pooling.enqueue(clips, deadline)
            self._inbox.append(lambda: self.pooling.tasks.add(task))
            self._changed.notify()
        task.future.add_done_callback(self.pooling.leave)
        return task.future

    def refuse_if_full(self, coming: int = 0) -> None:
        """Raises NotReady, DeviceLost, or QueueFull where ``coming`` more requests would exceed the queue."""
        if self.lost:
            raise DeviceLost
        if not self._open:
            raise NotReady(_CLOSING)
        unfinished = len(self._sequences) + len(self.pooling) + coming
        if unfinished >= self.limits.max_queue + self.limits.max_batch:
            self.stats.rejected += 1
            raise QueueFull(f"{unfinished} requests are in line already; try again shortly.")

    def cancel(self, request_id: str) -> None:
        """End a request before the next step; its memory is free again at once. Unknown ids are ignored."""
        if sequence := self._sequences.get(request_id):
            sequence.cancelled = True
            self._wake()

    def call(self, function: Callable[[], T]) -> "Future[T]":
        """Run ``function`` on the engine's thread between two steps. Raises DeviceLost or NotReady."""
        future: Future[T] = Future()

        def run() -> None:
            try:
                result = function()
            except Exception as error:
                future.set_exception(error)
            else:
                self._publish()
                future.set_result(result)

        with self._changed:
            if self.lost:
                raise DeviceLost
            if self._stopping or not self._thread.is_alive():
                raise NotReady("The engine is not running.")
            self._inbox.append(run)
            self._changed.notify()
        return future

    def free_slots(self, name: str | None = None) -> "Future[list[str]]":
        """Evict one adapter, or all, unless a running request uses it; returns the uids."""
        return self.call(lambda: self.lora_manager.evict_idle(name))

    def pin(self, name: str, pinned: bool) -> "Future[None]":
        """Set or clear a pin between two steps. The future fails with Conflict where no slot would stay unpinned."""
        return self.call(lambda: self.lora_manager.pin(name, pinned))

    def fingerprint(self) -> "Future[str]":
        """Fingerprint of the base weights in memory, computed between steps, in one pass for all who ask meanwhile."""
        future: Future[str] = Future()
        self.call(lambda: self._fingerprints.ask(future))
        return future

    def drain(self, seconds: float) -> bool:
        """Refuse new requests and wait for the others; False when time ran out first."""
        with self._changed:
            self._open = False
            return self._changed.wait_for(lambda: not (self._sequences or len(self.pooling)), seconds)

    def close(self) -> None:
        """Stop the thread; requests that have not ended fail with NotReady."""
        with self._changed:
            self._open, self._stopping = False, True
            self._changed.notify_all()
        if self._thread.is_alive():
            self._thread.join()
        self.lora_manager.host.close()

    def _wake(self) -> None:
        with self._changed:
            self._woken = True
            self._changed.notify_all()

    # -- on the engine's thread: the step ---------------------------------------------------------

    def _step(self) -> bool:
        """One step of all running sequences; False when there was none to make and none to read."""
        chunks = self.scheduler.schedule(self._admit())
        self.runner.free_audio(self.scheduler.take_preempted())
        self._publish()
        busy = bool(chunks or self._in_flight)
        if chunks:
            self._run_step(chunks)
        self._process_outputs(keep=1 if chunks and self.runner.overlaps else 0)
        return busy

    def _admit(self) -> dict[str, Admission]:
        """Admission of each waiting sequence that the next step could start, by request id.

        Adapters are loaded here, in the queue's order. A sequence whose adapter cannot be loaded fails.
        """
        admissions: dict[str, Admission] = {}
        failed: list[tuple[Sequence, OvertoneError]] = []
        self.scheduler.allocate_running()
        for chunk in self.scheduler.candidates(admissions):
            sequence, admission = chunk.sequence, Admission.LOADING
            try:
                admission = self.lora_manager.acquire(sequence)
            except Exception as error:
                failed.append((sequence, self._faults.classify(error, _LOAD_FAILED)))
            if admission is Admission.READY and sequence.admitted is None:
                sequence.admitted = time.monotonic()
            admissions[sequence.request.id] = admission
        for sequence, fault in failed:
            self._sequences.fail(sequence, fault)
        return admissions

    def _run_step(self, chunks: list[Chunk]) -> None:
        """Run one step of all chunks; where it fails, each chunk runs alone, and those that fail again are to blame."""
        begun = time.monotonic()
        if self._try_launch(chunks) is not None:
            self._process_outputs()
            self._run_one_by_one(chunks)
        self.stats.step(len(chunks), time.monotonic() - begun)

    def _run_one_by_one(self, chunks: list[Chunk]) -> None:
        """A repeated chunk writes the same keys and values to the same blocks, so a retry is safe."""
        for chunk in (one for one in chunks if one.sequence in self._sequences):
            if self.lost:
                return
            fault = self._try_launch([chunk])
            if fault and not (isinstance(fault, OutOfMemory) and self.scheduler.put_back(chunk.sequence)):
                self._sequences.fail(chunk.sequence, fault)
            self._process_outputs()

    def _try_launch(self, chunks: list[Chunk]) -> OvertoneError | None:
        """Queue a step; its error if that failed."""
        fault = None
        try:
            drawn = self.runner.launch(chunks)
        except Exception as error:
            log.warning("a step failed for %s", ", ".join(chunk.sequence.request.id for chunk in chunks))
            fault = self._faults.classify(error)
        else:
            for chunk in chunks:
                chunk.sequence.computed += chunk.tokens
                chunk.sequence.in_flight += chunk.final
            self._in_flight.append(([chunk.sequence for chunk in chunks if chunk.final], drawn))
        self._faults.recover_memory()
        return fault

    def _process_outputs(self, keep: int = 0) -> None:
        """Read the tokens of the steps in flight, all but the last ``keep``, and emit the events of each sequence."""
        while len(self._in_flight) > keep:
            sequences, drawn = self._in_flight.popleft()
            for sequence in sequences:
                sequence.in_flight -= 1
            for sequence, choice in zip(sequences, drawn.result(), strict=True):
                if sequence not in self._sequences:
                    continue  # ended after the step was queued
                try:
                    self._sequences.append(sequence, choice)
                except Exception as error:  # of its grammar or its detokenizer: other sequences are not affected
                    self._sequences.fail(sequence, self._faults.classify(error))

    # -- on the engine's thread: around the steps -------------------------------------------------

    def _run(self) -> None:
        with torch.inference_mode():
            try:
                self.runner.warm_up()
            except BaseException as error:
                return self._warm.set_exception(error)  # `start` raises it
            self._warm.set_result(None)
            while not (self._stopping or self.lost):
                try:
                    self._run_once()
                except Exception as error:  # a fault of the engine: running requests fail, the thread goes on
                    self._in_flight.clear()
                    self._sequences.fail_all(self._faults.classify(error, _ENGINE_FAILED))
            self._fail_remaining()

    def _run_once(self) -> None:
        """One step, and the work that is due between two steps."""
        begun = time.monotonic()
        self._faults.recover_memory()
        self._take_inbox()
        self._sequences.end_cancelled_and_overdue()
        loading = self.lora_manager.advance()
        busy = self._step()
        self.pooling.tasks.advance()
        self._background.advance_for(BACKGROUND_FRACTION * (time.monotonic() - begun))
        if not (busy or loading or self.runner.capture_pending()):
            self._wait()

    def _take_inbox(self) -> None:
        with self._changed:
            messages, self._inbox = self._inbox, deque()
        for message in messages:
            message()

    def _wait(self) -> None:
        """Sleep until a change; at most until the deadlines need another look."""
        with self._changed:
            busy = self._inbox or self.pooling.tasks or self._background
            if not (self._woken or busy or self._stopping):
                self._changed.wait(0.1 if self._sequences else None)
            self._woken = False

    def _pool(self, clip: Clip) -> Moments:
        pooled = self.runner.pool(clip)
        self._publish()
        return pooled

    def _enter(self, sequence: Sequence) -> None:
        if sequence in self._sequences:  # not ended while it was in the inbox
            self.scheduler.add(sequence)

    def _fail_remaining(self) -> None:
        """Fail every request that the thread leaves unanswered when it ends."""
        with self._changed:
            self._open, self._stopping = False, True
        reason = DeviceLost() if self.lost else NotReady(_CLOSING)
        self._take_inbox()
        self._sequences.fail_all(reason)
        for tasks in (self.pooling.tasks, self._background):
            tasks.fail_all(reason)

    def _publish(self) -> None:
        self.snapshot = EngineSnapshot.of(self.scheduler, self.lora_manager, self.runner.encoder)
