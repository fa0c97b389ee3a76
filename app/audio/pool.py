"""Decoding in processes of their own, so that a crash inside a codec costs one recording.

A worker may open no further file or socket, and take only so much memory and CPU time.
"""

import logging
import multiprocessing
import os
import pickle
import queue
import resource
import signal
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import forkserver
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any, Generic, TypeVar, cast

from app.audio.decode import Limits, Recording, decode
from app.errors import AudioError, EngineFault, OvertoneError, TooLarge

log = logging.getLogger(__name__)
T = TypeVar("T")
Work = Callable[..., T]  # of the bytes of a recording, its name, and named options

MEMORY_BYTES = 1 << 30  # private memory of a worker beyond what it has at its start
_PRELOADED = [
    "app.audio.decode",
    "app.model.features",
    "transformers.feature_extraction_sequence_utils",
    "soundfile",
    "av",
    "soxr",
]
_WALL_FACTOR = 20  # seconds of waiting per second of CPU time: a busy machine refuses nobody


def preload() -> None:
    """Begin to load the libraries that workers share, in a process beside this one."""
    if "forkserver" in multiprocessing.get_all_start_methods():
        _context()
        forkserver.ensure_running()


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
        self.connection.close()  # the worker ends at the end of its pipe
        self.process.join(1)
        if self.process.is_alive():
            self.process.kill()
            self.process.join()


class DecodingPool(Generic[T]):
    """At most ``size`` processes that run ``work``; each starts when it is first needed.

    ``work`` is pickled to them; it takes the bytes of a recording and its name, and may raise any OvertoneError.
    ``cpu_seconds``: CPU time of one call. ``crashes``: workers that died of a recording, also those that the system
    ended at their limit of time or memory.
    """

    def __init__(self, work: Work[T], size: int, cpu_seconds: float) -> None:
        self._work = work
        self._cpu_seconds = cpu_seconds
        self._closed = False
        self._places: queue.LifoQueue[_Worker | None] = queue.LifoQueue()  # the last one used is in the cache
        self._counting = threading.Lock()
        self.size = size
        self.crashes = 0
        for _ in range(size):
            self._places.put(None)

    def run(self, data: bytes, filename: str | None = None, **options: Any) -> T:
        """The result of ``work``, given ``options`` too. Blocks while all workers are busy; any thread may call it.

        Raises what ``work`` raised, AudioError when the worker died of this recording, and TooLarge when it took
        more memory or time than a worker has.
        """
        worker = self._places.get()
        try:
            worker = worker or self._start()
            result = self._ask(worker, data, filename, options)
        except BaseException:
            if worker is not None:
                worker.stop()
            self._places.put(None)
            raise
        self._put_back(worker)
        if isinstance(result, _Failure):
            log.error("decoding %r failed:\n%s", filename, result.traceback)
            raise EngineFault("The recording could not be decoded; the server's log has the reason.")
        if isinstance(result, OvertoneError):
            raise result
        return cast(T, result)

    def start(self) -> threading.Thread:
        """Start one worker on a thread of its own, which is returned: loading libraries takes a second."""

        def first() -> None:
            worker = self._places.get()
            try:
                worker = worker or self._start()
            finally:
                self._put_back(worker)

        thread = threading.Thread(target=first, name="decoding-start", daemon=True)
        thread.start()
        return thread

    def close(self) -> None:
        """Stop the workers; those that are busy stop after their recording."""
        self._closed = True
        while True:
            try:
                worker = self._places.get_nowait()
            except queue.Empty:
                return
            if worker is not None:
                worker.stop()

    def _put_back(self, worker: _Worker | None) -> None:
        if self._closed and worker is not None:
            worker.stop()
            worker = None
        self._places.put(worker)

    def _start(self) -> _Worker:
        context = _context()
        here, there = context.Pipe()
        process = context.Process(
            target=_serve, args=(there, self._work, self._cpu_seconds), name="overtone-decoder", daemon=True
        )
        process.start()
        there.close()
        return _Worker(process, here)

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


@dataclass(frozen=True)
class _Failure:
    """An error of ours, not of the recording."""

    traceback: str


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


def _context() -> Any:
    """Workers are forked from a process that has loaded the libraries once and runs no other thread."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_PRELOADED)
    return context


def _serve(connection: Connection, work: Work[Any], cpu_seconds: float) -> None:
    """The life of a worker: name and bytes in, a pickled result out, until the pipe ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl+C is for the server, which lets requests end
    _single_threaded()
    _warm_up(work)
    _restrict(connection)
    while True:
        try:
            (filename, options), data = connection.recv(), connection.recv_bytes()
        except (EOFError, ConnectionError):
            return
        _limit_cpu(cpu_seconds)
        try:
            answer = pickle.dumps(_answer(work, data, filename, **options), protocol=5)
            connection.send_bytes(answer)
        except ConnectionError:
            return


def _answer(work: Work[Any], data: bytes, filename: str | None, **options: Any) -> Any:
    import traceback

    try:
        return work(data, filename, **options)
    except OvertoneError as error:
        return error
    except MemoryError:
        return TooLarge("The audio takes more memory than a decoder has; send it in parts, as wav or flac.")
    except Exception:
        return _Failure(traceback.format_exc())


def _single_threaded() -> None:
    """Many recordings at a time are faster than many threads for one."""
    if torch := sys.modules.get("torch"):
        torch.set_num_threads(1)


def _warm_up(work: Work[Any]) -> None:
    """Load what is loaded at first use, while files can still be opened."""
    import io

    import numpy as np
    import soundfile

    from app.audio.segments import warm_up

    warm_up()
    file = io.BytesIO()
    soundfile.write(file, np.zeros(40 * 8000, np.int16), 8000, format="WAV")
    for data in (file.getvalue(), b"not audio"):
        _answer(work, data, "warm-up")


def _restrict(connection: Connection) -> None:
    """No more files, sockets or core dumps, and a bound on memory, where the system can do it."""
    highest = max((int(name) for name in _open_files()), default=-1)
    limits = [("RLIMIT_CORE", 0), ("RLIMIT_FSIZE", 0), ("RLIMIT_DATA", _private_bytes() + MEMORY_BYTES)]
    limits += [("RLIMIT_NOFILE", highest + 1)] if highest >= 0 else []
    for name, value in limits:
        try:
            resource.setrlimit(getattr(resource, name), (value, value))
        except (AttributeError, ValueError, OSError) as error:
            log.debug("%s cannot be set: %s", name, error)
            return
    with suppress(OSError):  # numbers that are free below the limit are taken
        while highest >= 0:
            os.dup(connection.fileno())


def _open_files() -> list[str]:
    try:
        return os.listdir("/proc/self/fd")
    except OSError:
        return []


def _private_bytes() -> int:
    """Private memory of this process now."""
    try:
        with open("/proc/self/status") as status:
            lines = dict(line.split(":", 1) for line in status)
        return int(lines["VmData"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        return 1 << 33


def _limit_cpu(seconds: float) -> None:
    """The kernel ends this process when one recording takes longer; a codec that loops asks no clock."""
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    resource.setrlimit(resource.RLIMIT_CPU, (int(time.process_time() + seconds) + 2, hard))
