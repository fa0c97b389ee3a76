"""The watch over one running job: reports the end of its process, and the end of its time."""

import threading
from collections.abc import Callable

from app.jobs.process import Child


class Watch:
    """Two threads per job: one waits for the process, one for the end of the time that a run may take.

    ``ended`` is called with the exit code as `Child.wait` returns it; ``late`` when ``seconds`` are over. ``is_late``:
    set by the owner once it stops the process for that.
    """

    def __init__(
        self, name: str, child: Child, seconds: float, *, ended: Callable[[int | None], None], late: Callable[[], None]
    ) -> None:
        self.child = child
        self.is_late = False
        self._ended = ended
        self._waiter = threading.Thread(target=self._wait, name=f"job-{name}", daemon=True)
        self._timer = threading.Timer(seconds, late)
        self._timer.daemon = True

    def start(self) -> None:
        """Begin both waits."""
        self._timer.start()
        self._waiter.start()

    def stop_timer(self) -> None:
        """``late`` is not called any more."""
        self._timer.cancel()

    def join(self) -> None:
        """Block until ``ended`` has returned."""
        self._waiter.join()

    def _wait(self) -> None:
        self._ended(self.child.wait())
