"""Work between steps: one piece of one task a turn, by turns, so that no running stream waits for the whole."""

import logging
import time
from collections import deque
from collections.abc import Generator
from concurrent.futures import Future
from typing import Any, Generic, TypeVar

from app.errors import DeadlineExceeded, EngineFault, OvertoneError

log = logging.getLogger(__name__)
T = TypeVar("T")
Pieces = Generator[None, None, T]


class Task(Generic[T]):
    """Pieces of work that end in ``future``; cancelling that ends the work before its next piece.

    ``deadline``: `time.monotonic` seconds.
    """

    def __init__(self, pieces: Pieces[T], deadline: float = float("inf")) -> None:
        self.future: Future[T] = Future()
        self._pieces = pieces
        self._deadline = deadline

    def advance(self) -> bool:
        """Do one piece; False once the task has ended."""
        try:
            next(self._pieces)
        except StopIteration as end:
            if self.future.set_running_or_notify_cancel():
                self.future.set_result(end.value)
        except OvertoneError as error:
            self.fail(error)
        except Exception:
            log.exception("a task between steps failed")
            self.fail(EngineFault("This request failed inside the model; others go on."))
        else:
            return True
        return False

    def given_up(self) -> bool:
        """True, and over, when nobody waits for it any more or its time is up."""
        if not self.future.cancelled() and time.monotonic() > self._deadline:
            self.fail(DeadlineExceeded("The request took longer than this server allows."))
        return self.future.done()

    def fail(self, error: OvertoneError) -> None:
        self._pieces.close()
        if self.future.set_running_or_notify_cancel():
            self.future.set_exception(error)


class Tasks:
    """All that wait for their turn. Called on the engine's thread only."""

    def __init__(self) -> None:
        self._tasks: deque[Task[Any]] = deque()

    def __len__(self) -> int:
        return len(self._tasks)

    def add(self, task: Task[Any]) -> None:
        self._tasks.append(task)

    def advance(self) -> None:
        """Drop what was given up, then one piece of the task that has waited longest."""
        self._tasks = deque(task for task in self._tasks if not task.given_up())
        if self._tasks:
            task = self._tasks.popleft()
            if task.advance():
                self._tasks.append(task)

    def fail_all(self, error: OvertoneError) -> None:
        while self._tasks:
            self._tasks.popleft().fail(error)
