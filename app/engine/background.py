"""Background work in small pieces between steps, so that no running stream waits for a whole task."""

import time
from collections import deque
from collections.abc import Callable, Generator
from concurrent.futures import Future
from typing import Any, Generic, TypeVar

from app.errors import DeadlineExceeded, OvertoneError

T = TypeVar("T")
Pieces = Generator[None, None, T]


class Task(Generic[T]):
    """Work in pieces whose result ``future`` receives; cancelling the future ends the work before its next piece.

    ``deadline``: `time.monotonic` seconds, after which the future fails with DeadlineExceeded.
    """

    def __init__(self, pieces: Pieces[T], deadline: float = float("inf")) -> None:
        self.future: Future[T] = Future()
        self._pieces = pieces
        self._deadline = deadline

    def advance(self, classify: Callable[[Exception], OvertoneError]) -> bool:
        """Do one piece; False once the task has ended. ``classify``: the error that the future fails with."""
        try:
            next(self._pieces)
        except StopIteration as end:
            if self.future.set_running_or_notify_cancel():
                self.future.set_result(end.value)
        except Exception as error:
            self.fail(classify(error))
        else:
            return True
        return False

    def ended(self) -> bool:
        """True when its future has ended, was cancelled, or fails now because the deadline has passed."""
        if not self.future.cancelled() and time.monotonic() > self._deadline:
            self.fail(DeadlineExceeded("The request took longer than this server allows."))
        return self.future.done()

    def fail(self, error: OvertoneError) -> None:
        """End the work and its future with an error."""
        self._pieces.close()
        if self.future.set_running_or_notify_cancel():
            self.future.set_exception(error)


class Tasks:
    """Tasks that advance in turn. Called on the engine's thread only. ``classify``: as for `Task.advance`."""

    def __init__(self, classify: Callable[[Exception], OvertoneError]) -> None:
        self._classify = classify
        self._tasks: deque[Task[Any]] = deque()

    def __len__(self) -> int:
        return len(self._tasks)

    def add(self, task: Task[Any]) -> None:
        self._tasks.append(task)

    def advance(self) -> None:
        """Remove the tasks that have ended, then do one piece of the task that has waited longest."""
        self._tasks = deque(task for task in self._tasks if not task.ended())
        if self._tasks:
            task = self._tasks.popleft()
            if task.advance(self._classify):
                self._tasks.append(task)

    def advance_for(self, seconds: float) -> None:
        """Do pieces until ``seconds`` have passed; at least one, so that the work ends under load too."""
        until = time.monotonic() + seconds
        self.advance()
        while self._tasks and time.monotonic() < until:
            self.advance()

    def fail_all(self, error: OvertoneError) -> None:
        """End every task with the same error."""
        while self._tasks:
            self._tasks.popleft().fail(error)


class Passes(Generic[T]):
    """Work that several callers ask for and one pass does. All that ask before a pass begins share its result.

    One pass runs at a time, as a task of ``tasks``. Called on the engine's thread only. ``pieces``: those of one pass.
    """

    def __init__(self, tasks: Tasks, pieces: Callable[[], Pieces[T]]) -> None:
        self._tasks = tasks
        self._pieces = pieces
        self._waiting: list[Future[T]] = []
        self._running = False

    def ask(self, future: Future[T]) -> None:
        """Give ``future`` the result, or the error, of a pass that begins now or after the present one."""
        self._waiting.append(future)
        if not self._running:
            self._begin()

    def _begin(self) -> None:
        asked, self._waiting, self._running = self._waiting, [], True
        task = Task(self._pieces())
        task.future.add_done_callback(lambda done: self._end(done, asked))
        self._tasks.add(task)

    def _end(self, done: Future[T], asked: list[Future[T]]) -> None:
        self._running = False
        for future in asked:
            if not future.set_running_or_notify_cancel():
                continue
            if error := done.exception():
                future.set_exception(error)
            else:
                future.set_result(done.result())
        if self._waiting:
            self._begin()
