"""CUDA graphs of the decoder's passes: each shape is captured once and replayed from then on."""

import logging
import math
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from typing import Any, Generic, TypeVar

import torch

from app.model.device_memory import is_out_of_memory

log = logging.getLogger(__name__)
K = TypeVar("K", bound=Hashable)
CAPTURE_SHARE = 0.1  # of the time, at most, while requests run
MOST_GRAPHS = 256
FLOOR = 384 << 20  # bytes of the device that captures leave to others; a graph of 7B takes some


class GraphRunner(Generic[K]):
    """Runs passes as graphs, where ``enabled``; a pass without a graph runs as it is.

    A capture keeps the host busy for tens of milliseconds in which no step is queued. So that running streams do not
    wait for many of them in a row, captures take `CAPTURE_SHARE` of the time, and what is left is captured when
    nothing else is to be done. Where the device has less than `FLOOR` bytes left, nothing more is captured.
    """

    def __init__(self, enabled: bool) -> None:
        self._enabled = enabled
        self._graphs: OrderedDict[K, Any] = OrderedDict()
        self._wanted: dict[K, Callable[[], object]] = {}
        self._not_before, self._unpaced = 0.0, False
        self._pool = torch.cuda.graph_pool_handle() if enabled else None
        self._stream = torch.cuda.Stream() if enabled else None  # type: ignore[no-untyped-call]

    def __len__(self) -> int:
        return len(self._graphs)

    def run(self, key: K | None, run: Callable[[], object]) -> None:
        """Replay ``key``, or ``run`` the pass; None for a pass that is never captured."""
        if key is not None and key in self._graphs:
            self._graphs.move_to_end(key)
            self._graphs[key].replay()
            return
        run()
        if not self._enabled or key is None:
            return
        if time.monotonic() < self._not_before:
            self._wanted.pop(key, None)
            self._wanted[key] = run  # the last
        else:
            self._capture(key, run)

    @contextmanager
    def at_once(self, capture: bool) -> Iterator[None]:
        """While no stream runs: every pass is captured, or none, and all are left for later."""
        self._not_before = -math.inf if capture else math.inf
        self._unpaced = True
        try:
            yield
        finally:
            self._unpaced, self._not_before = False, 0.0

    def catch_up(self) -> bool:
        """Capture the pass that ran last without a graph; False when there is none."""
        if not self._wanted:
            return False
        key = next(reversed(self._wanted))
        self._capture(key, self._wanted[key])
        return True

    def forget(self, condition: Callable[[K], bool]) -> None:
        """Drop the graphs, captured or wanted, whose key meets ``condition``."""
        for held in (self._graphs, self._wanted):
            for key in [key for key in held if condition(key)]:
                del held[key]

    def _capture(self, key: K, run: Callable[[], object]) -> None:
        """Capture a pass that has run before, so that all it needs is compiled and loaded; nothing is computed."""
        began = time.monotonic()
        self._wanted.pop(key, None)
        if torch.cuda.mem_get_info()[0] < FLOOR:
            self._wanted.clear()
            return
        try:
            self._graphs[key] = self._captured(run)
        except Exception as error:  # slower without, but the step itself is done
            if not is_out_of_memory(error):
                raise
            log.warning("no memory to capture %s; it runs uncaptured", key)
        while len(self._graphs) > MOST_GRAPHS:
            self._graphs.popitem(last=False)
        now = time.monotonic()
        if not self._unpaced:
            self._not_before = now + (now - began) * (1 / CAPTURE_SHARE - 1)

    def _captured(self, run: Callable[[], object]) -> Any:
        """A graph of ``run``. Unlike `torch.cuda.graph` it neither waits for the device nor empties the allocator."""
        graph = torch.cuda.CUDAGraph()
        stream, current = self._stream, torch.cuda.current_stream()
        assert stream is not None
        stream.wait_stream(current)
        with torch.cuda.stream(stream):
            graph.capture_begin(pool=self._pool, capture_error_mode="thread_local")
            try:
                run()
            except BaseException:
                self._abandon(graph)
                raise
            graph.capture_end()
        current.wait_stream(stream)
        return graph

    @staticmethod
    def _abandon(graph: Any) -> None:
        """End a capture whose pass failed; that it cannot be finished is known."""
        try:
            graph.capture_end()
        except RuntimeError:
            log.debug("an abandoned capture could not be ended", exc_info=True)
