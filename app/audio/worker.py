"""The main loop of a decoding process, which can open no file or socket and has limits of memory and CPU time."""

import logging
import os
import pickle
import resource
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

from app.errors import OvertoneError, TooLarge

log = logging.getLogger(__name__)

MEMORY_BYTES = 1 << 30  # private memory of a worker beyond what it has at its start
READY = b"ready"  # the first message of a worker


@dataclass(frozen=True)
class Failure:
    """An error of this program, not of the recording."""

    traceback: str


def serve(connection: Connection, work: Callable[..., Any], cpu_seconds: float) -> None:
    """Receive name and bytes, send a pickled result, until the pipe ends."""
    for number in (signal.SIGINT, signal.SIGTERM):  # meant for the owner, which lets requests or a step end first;
        signal.signal(number, signal.SIG_IGN)  # service managers and Ctrl+C send them to all processes
    _single_threaded()
    _warm_up(work)
    _restrict(connection)
    with suppress(ConnectionError):
        connection.send_bytes(READY)
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


def _answer(work: Callable[..., Any], data: bytes, filename: str | None, **options: Any) -> Any:
    import traceback

    try:
        return work(data, filename, **options)
    except OvertoneError as error:
        return error
    except MemoryError:
        return TooLarge("The audio takes more memory than a decoder has; send it in parts, as wav or flac.")
    except Exception:
        return Failure(traceback.format_exc())


def _single_threaded() -> None:
    """One torch thread per process: many recordings at a time are faster than many threads for one."""
    if torch := sys.modules.get("torch"):
        torch.set_num_threads(1)


def _warm_up(work: Callable[..., Any]) -> None:
    """Load modules and data that load at first use, while files can still be opened."""
    import io

    import numpy as np
    import soundfile

    if segments := sys.modules.get("app.audio.segments"):  # where ``work`` cuts recordings
        segments.warm_up()
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
    """The kernel ends this process when one recording takes longer: a codec in a loop checks no clock."""
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    resource.setrlimit(resource.RLIMIT_CPU, (int(time.process_time() + seconds) + 2, hard))
