"""Pooled encoder output for classifiers: no sequence and no step, one clip at a time between two steps."""

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future

from app.engine.background import Pieces, Task, Tasks
from app.engine.request import PooledAudio
from app.engine.stats import EngineStats
from app.errors import OvertoneError
from app.models.features import Clip
from app.models.head import Moments


class PoolingQueue:
    """Classifications that wait. ``pool`` encodes one clip on the engine's thread; ``changed`` is the engine's lock.

    ``classify``: as for `Task.advance`.
    """

    def __init__(
        self,
        pool: Callable[[Clip], Moments],
        classify: Callable[[Exception], OvertoneError],
        stats: EngineStats,
        changed: threading.Condition,
    ) -> None:
        self.tasks = Tasks(classify)
        self._pool = pool
        self._stats = stats
        self._changed = changed
        self._waiting: set[Future[PooledAudio]] = set()

    def __len__(self) -> int:
        """All that wait, whether they have reached the engine's thread or not. Any thread may ask."""
        return len(self._waiting)

    def enqueue(self, clips: tuple[Clip, ...], deadline: float) -> Task[PooledAudio]:
        """A task that counts as waiting, made with the lock held; the engine's thread adds it to ``tasks``."""
        task = Task(self._pieces(clips, time.monotonic()), deadline)
        self._waiting.add(task.future)
        return task

    def leave(self, future: "Future[PooledAudio]") -> None:
        """Count an ended task. Runs on the engine's thread or, for a cancelled one, on the thread that cancelled."""
        if not future.cancelled():
            self._stats.finished += future.exception() is None
            self._stats.failed += future.exception() is not None
        with self._changed:
            self._waiting.discard(future)
            self._changed.notify_all()

    def _pieces(self, clips: tuple[Clip, ...], submitted: float) -> Pieces[PooledAudio]:
        """Encode one clip per piece."""
        queued, busy = time.monotonic() - submitted, 0.0
        pooled: list[Moments] = []
        for clip in clips:
            if pooled:
                yield
            begun = time.monotonic()
            pooled.append(self._pool(clip))
            busy += time.monotonic() - begun
        return PooledAudio(tuple(pooled), 1e3 * queued, 1e3 * busy)
