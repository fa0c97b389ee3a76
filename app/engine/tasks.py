"""Work between steps: one piece of one task a turn, by turns, so that no running stream waits for the whole."""

import time
from collections import deque
from collections.abc import Callable, Generator
from concurrent.futures import Future
from typing import Any, Generic, TypeVar

from app.errors import DeadlineExceeded, OvertoneError

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

    def advance(self, fault_of: Callable[[Exception], OvertoneError]) -> bool:
        """Do one piece; False once the task has ended. ``fault_of``: what its future tells of a failure."""
        try:
            next(self._pieces)
        except StopIteration as end:
            if self.future.set_running_or_notify_cancel():
                self.future.set_result(end.value)
        except Exception as error:
            self.fail(fault_of(error))
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
    """All that wait for their turn. Called on the engine's thread only. ``fault_of``: as for `Task.advance`."""

    def __init__(self, fault_of: Callable[[Exception], OvertoneError]) -> None:
        self._fault_of = fault_of
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
            if task.advance(self._fault_of):
                self._tasks.append(task)

    def fail_all(self, error: OvertoneError) -> None:
        while self._tasks:
            self._tasks.popleft().fail(error)
