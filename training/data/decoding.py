"""A row's recording as samples: the whole file, or the part that the row means.

Files are decoded in the processes of a pool, so that one which crashes a codec costs its rows, not the run.
"""

import io
import os
import threading
from collections.abc import Callable
from concurrent.futures import Future
from functools import cache

from cachetools import LRUCache

from app.audio.decode import Limits, Recording, decode
from app.audio.forkserver import DECODING, preload
from app.audio.pool import DecodingPool
from app.errors import AudioError
from training.data.rows import Sound

SLACK_SECONDS = 0.1  # by which a part may end after its recording: times are rounded
MOST_DECODERS = 8
_WARM_UP = Limits(60, 1 << 24)  # of what a process decodes at its start
_WHOLES = 4  # recordings that are kept for the parts of them that follow


def start_decoders() -> None:
    """Begin to load the libraries that decoding processes share, beside this process."""
    preload(DECODING)


def decoders() -> int:
    """Processes that decode at a time: one per core, divided among the processes that share this machine's run."""
    from accelerate.utils import get_int_from_env

    here: int = get_int_from_env(["LOCAL_WORLD_SIZE"], 1)
    return max(1, min(MOST_DECODERS, os.cpu_count() or 1) // here)


def decode_sound(sound: Sound, *, rate: int, limits: Limits) -> Recording:
    """Mono samples at ``rate`` Hz; any thread may call it. Raises OSError, and AudioError or TooLarge as `decode` does.

    A file over which its decoder crashes is an AudioError. So is a part that lies beyond the recording's end: its
    times may be in another unit than seconds.
    """
    if sound.start is None and sound.end is None:
        return _decode(sound.read(), sound.name, rate, limits)
    if sound.path is not None and sound.data is None:
        path = sound.path
        key = (path, path.stat().st_mtime_ns, rate, limits)
        whole = _KEPT.get(key, lambda: _decode(path.read_bytes(), path.name, rate, limits))
    else:
        whole = _decode(sound.read(), sound.name, rate, limits)
    seconds = len(whole.samples) / rate
    start, end = sound.start or 0.0, seconds if sound.end is None else sound.end
    if start >= seconds or end > seconds + SLACK_SECONDS:
        raise AudioError(
            f"The part from {start:g} s to {end:g} s lies beyond the end of {sound.name[:80]!r} ({seconds:.2f} s); "
            "start and end are seconds (start_ms and end_ms: milliseconds). Remove them where the file is the part "
            "already."
        )
    part = whole.samples[round(start * rate) : round(end * rate)]
    memory = io.BytesIO()
    import soundfile

    soundfile.write(memory, part, rate, format="WAV", subtype="FLOAT")
    return decode(memory.getvalue(), rate=rate, limits=limits, filename=sound.name)  # samples that we wrote


def _decode(data: bytes, filename: str, rate: int, limits: Limits) -> Recording:
    return _pool(limits.max_cpu_seconds).run(data, filename, rate=rate, limits=limits)


@cache
def _pool(max_cpu_seconds: float) -> DecodingPool[Recording]:
    """The pool of this process. It lasts as long: its start takes a second, and a run decodes in several stages."""
    return DecodingPool(_work, decoders(), 2 * max_cpu_seconds, DECODING)


def _work(data: bytes, filename: str | None, rate: int = 16_000, limits: Limits = _WARM_UP) -> Recording:
    return decode(data, rate=rate, limits=limits, filename=filename)


class _Kept:
    """The last few recordings. Who asks for one that is being decoded waits for it: each is decoded once."""

    def __init__(self, most: int) -> None:
        self._lock = threading.Lock()
        self._found = LRUCache[object, Future[Recording]](most)

    def get(self, key: object, make: Callable[[], Recording]) -> Recording:
        """The result of ``make`` for ``key``, kept. Raises what it raises; errors are not kept."""
        with self._lock:
            future = self._found.get(key)
            mine = future is None
            if future is None:
                future = self._found[key] = Future()
        if mine:
            try:
                future.set_result(make())
            except BaseException as error:
                with self._lock:
                    if self._found.get(key) is future:
                        del self._found[key]
                future.set_exception(error)
        return future.result()


_KEPT = _Kept(_WHOLES)
