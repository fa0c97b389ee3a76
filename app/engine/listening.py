"""What classification heads hear: no sequence and no step, one clip at a time between two steps."""

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future

from app.engine.request import Listened
from app.engine.stats import EngineStats
from app.engine.tasks import Pieces, Task, Tasks
from app.errors import OvertoneError
from app.model.features import Clip
from app.model.head import Moments


class Listening:
    """Those in line to be heard. ``hear`` runs on the engine's thread; ``changed`` is the engine's own lock."""

    def __init__(
        self,
        hear: Callable[[Clip], Moments],
        fault_of: Callable[[Exception], OvertoneError],
        stats: EngineStats,
        changed: threading.Condition,
    ) -> None:
        self.tasks = Tasks(fault_of)
        self._hear = hear
        self._stats = stats
        self._changed = changed
        self._waiting: set[Future[Listened]] = set()

    def __len__(self) -> int:
        """All that wait, whether they have come to the engine's thread or not."""
        return len(self._waiting)

    def expect(self, clips: tuple[Clip, ...], deadline: float) -> Task[Listened]:
        """A place in line, called with the lock held; the engine's thread adds the task to ``tasks``."""
        task = Task(self._pieces(clips, time.monotonic()), deadline)
        self._waiting.add(task.future)
        return task

    def left(self, future: "Future[Listened]") -> None:
        """Out of the line, on the engine's thread or, cancelled, on the thread that gave up."""
        if not future.cancelled():
            self._stats.finished += future.exception() is None
            self._stats.failed += future.exception() is not None
        with self._changed:
            self._waiting.discard(future)
            self._changed.notify_all()

    def _pieces(self, clips: tuple[Clip, ...], submitted: float) -> Pieces[Listened]:
        """One clip a piece."""
        queued, busy = time.monotonic() - submitted, 0.0
        heard: list[Moments] = []
        for clip in clips:
            if heard:
                yield
            begun = time.monotonic()
            heard.append(self._hear(clip))
            busy += time.monotonic() - begun
        return Listened(tuple(heard), 1e3 * queued, 1e3 * busy)
