"""Decoding in processes of their own, so that a crash inside a codec costs one recording.

A worker can open no further file or socket and has limits of memory and CPU time.
"""

import logging
import pickle
import queue
import signal
import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from multiprocessing.util import Finalize
from typing import Any, Generic, TypeVar, cast

from app.audio import forkserver
from app.audio.decode import Limits, Recording, decode
from app.audio.worker import READY, Failure, serve
from app.errors import AudioError, EngineFault, OvertoneError, TooLarge

log = logging.getLogger(__name__)
T = TypeVar("T")
Work = Callable[..., T]  # of the bytes of a recording, its name, and named options

_WALL_FACTOR = 20  # seconds of waiting per second of CPU time: a busy machine is slow, which is no reason to refuse
_START_SECONDS = 300.0  # of waiting for a worker's libraries


class NoDecoder(EngineFault):
    """No worker can be started; the recording is not the cause."""


@dataclass(frozen=True)
class Decoder:
    """`decode` at ``rate`` Hz within ``limits``, as the work of a pool."""

    rate: int
    limits: Limits

    def __call__(self, data: bytes, filename: str | None) -> Recording:
        return decode(data, rate=self.rate, limits=self.limits, filename=filename)


@dataclass(frozen=True)
class _Worker:
    process: BaseProcess
    connection: Connection

    def stop(self) -> None:
        """End it. Blocking, a second at most."""
        self.connection.close()  # the worker ends at the end of its pipe
        self.process.join(1)
        if self.process.is_alive():
            self.process.kill()
            self.process.join()


class DecodingPool(Generic[T]):
    """At most ``size`` processes that run ``work``; each starts when it is first needed.

    ``work`` is pickled to them; it takes the bytes of a recording and its name, and may raise any OvertoneError.
    ``cpu_seconds``: CPU time of one call. ``modules``: as for `forkserver.preload`. ``crashes``: workers that died of
    a recording, also those that the system ended at their limit of time or memory. The workers end with this process,
    however it ends.
    """

    def __init__(self, work: Work[T], size: int, cpu_seconds: float, modules: Sequence[str] = forkserver.CLIPS) -> None:
        self._work = work
        self._modules = modules
        self._cpu_seconds = cpu_seconds
        self._closed = False
        self._places: queue.LifoQueue[_Worker | None] = queue.LifoQueue()  # the last one used is in the cache
        self._counting = threading.Lock()
        self._workers: set[_Worker] = set()
        # Workers pass over SIGTERM, with which multiprocessing would end them at the exit of this process
        Finalize(self, _kill, (self._workers,), exitpriority=10)
        self.size = size
        self.crashes = 0
        for _ in range(size):
            self._places.put(None)

    def run(self, data: bytes, filename: str | None = None, **options: Any) -> T:
        """The result of ``work``, given ``options`` too. Blocks while all workers are busy; any thread may call it.

        Raises what ``work`` raised, AudioError when the worker died of this recording, TooLarge when it took more
        memory or time than a worker has, and NoDecoder when no worker can be started.
        """
        worker = self._places.get()
        if worker is not None and worker.connection.poll():  # it has ended since, which is not this recording's fault
            self._stop(worker)
            worker = None
        try:
            worker = worker or self._start()
            result = self._ask(worker, data, filename, options)
        except BaseException:
            if worker is not None:
                self._stop(worker)
            self._places.put(None)
            raise
        self._put_back(worker)
        if isinstance(result, Failure):
            log.error("decoding %r failed:\n%s", filename, result.traceback)
            raise EngineFault("The recording could not be decoded; the server's log has the reason.")
        if isinstance(result, OvertoneError):
            raise result
        return cast(T, result)

    def start(self) -> "Future[None]":
        """Start one worker on a thread of its own; done once it answers, for loading libraries takes a second.

        The future holds NoDecoder where no worker can be started.
        """
        started: Future[None] = Future()

        def first() -> None:
            worker = self._places.get()
            try:
                worker = worker or self._start()
            except BaseException as error:
                self._put_back(None)
                started.set_exception(error)
            else:
                self._put_back(worker)
                started.set_result(None)

        threading.Thread(target=first, name="decoding-start", daemon=True).start()
        return started

    def close(self) -> None:
        """Stop the workers; those that are busy stop after their recording."""
        self._closed = True
        while True:
            try:
                worker = self._places.get_nowait()
            except queue.Empty:
                return
            if worker is not None:
                self._stop(worker)

    def _put_back(self, worker: _Worker | None) -> None:
        if self._closed and worker is not None:
            self._stop(worker)
            worker = None
        self._places.put(worker)

    def _stop(self, worker: _Worker) -> None:
        worker.stop()
        self._workers.discard(worker)

    def _start(self) -> _Worker:
        """A worker that waits for recordings. Raises NoDecoder."""
        context = forkserver.context(self._modules)
        here, there = context.Pipe()
        process = context.Process(
            target=serve, args=(there, self._work, self._cpu_seconds), name="overtone-decoder", daemon=True
        )
        with forkserver.without_main():
            process.start()
        there.close()
        worker = _Worker(process, here)
        self._workers.add(worker)
        with suppress(EOFError, ConnectionError):
            if here.poll(_START_SECONDS) and here.recv_bytes() == READY:
                return worker
        process.join(1)
        code = process.exitcode
        self._stop(worker)
        log.error("a decoder process could not be started (exit code %s)", code)
        raise NoDecoder("No process that decodes recordings could be started; the server's log has the reason.")

    def _ask(self, worker: _Worker, data: bytes, filename: str | None, options: dict[str, Any]) -> Any:
        named = f" ({filename[:80]!r})" if filename else ""
        try:
            worker.connection.send((filename, options))
            worker.connection.send_bytes(data)
            if not worker.connection.poll(_WALL_FACTOR * self._cpu_seconds):
                raise TooLarge(_too_slow(named))
            return pickle.loads(worker.connection.recv_bytes())  # noqa: S301 - of our own process
        except (EOFError, ConnectionError):
            with self._counting:
                self.crashes += 1
            raise _died(worker, named, len(data)) from None


def _died(worker: _Worker, named: str, size: int) -> OvertoneError:
    """The error for the recording over which a worker died."""
    worker.process.join(5)
    code = worker.process.exitcode
    log.warning("a decoder process ended with %s on a recording of %d bytes%s", code, size, named)
    if code == -signal.SIGXCPU:
        return TooLarge(_too_slow(named))
    if code == -signal.SIGKILL:
        return TooLarge(f"The audio{named} takes more memory than a decoder has; send it in parts, as wav or flac.")
    return AudioError(f"The audio{named} made its decoder crash; convert it to wav or flac and send it again.")


def _too_slow(named: str) -> str:
    return f"The audio{named} takes too long to decode; convert it to wav or flac."


def _kill(workers: Iterable[_Worker]) -> None:
    for worker in list(workers):
        worker.process.kill()
