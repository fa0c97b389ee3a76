"""CUDA graphs of the decoder's passes: each shape is captured once and replayed from then on."""

import gc
import logging
import math
import time
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from typing import Any, Generic, TypeVar

import torch
from cachetools import LRUCache

from app.models.device_memory import is_out_of_memory

log = logging.getLogger(__name__)
K = TypeVar("K", bound=Hashable)
CAPTURE_FRACTION = 0.1  # of the time, at most, while requests run
MOST_GRAPHS = 256
FLOOR = 192 << 20  # bytes of the device below which no graph is captured


@contextmanager
def _no_collection() -> Iterator[None]:
    """Pause Python's collector: it may destroy an older graph, and CUDA refuses that while a stream captures."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


class GraphRunner(Generic[K]):
    """Runs passes as graphs, where ``enabled``; a pass without a graph runs as it is.

    A capture keeps the host busy for tens of milliseconds in which no step is queued. So that running streams do not
    wait for many of them in a row, captures take `CAPTURE_FRACTION` of the time, and the others are captured when
    the engine is idle. Where the device has less than `FLOOR` bytes left, nothing more is captured.

    ``budget``: bytes of the device that graphs may take, by what each capture took; None without a limit. Beyond it the
    warm-up captures no more, and later captures take the place of the graphs that ran longest ago.
    """

    def __init__(self, enabled: bool, budget: int | None = None) -> None:
        self._enabled = enabled
        self._budget = math.inf if budget is None else budget
        self._bytes: dict[K, int] = {}
        self._graphs = LRUCache[K, Any](MOST_GRAPHS)
        self._wanted: dict[K, Callable[[], object]] = {}
        self._not_before, self._at_once = 0.0, False
        self._pool = torch.cuda.graph_pool_handle() if enabled else None
        self._stream = torch.cuda.Stream() if enabled else None  # type: ignore[no-untyped-call]

    def __len__(self) -> int:
        return len(self._graphs)

    @property
    def bytes(self) -> int:
        """Bytes that the graphs took when they were captured; later ones reuse what is free in their pool."""
        return sum(self._bytes[key] for key in self._graphs)

    def run(self, key: K | None, run: Callable[[], object]) -> None:
        """Replay ``key``, or ``run`` the pass; None for a pass that is never captured.

        A new pass runs as it is, since its kernels may have to be compiled or loaded, and is captured when it comes
        again: no step waits for both.
        """
        if not self._enabled or key is None:
            run()
            return
        if key in self._wanted and time.monotonic() >= self._not_before:
            self._capture(key, run)
        if key in self._graphs:
            self._graphs[key].replay()
            return
        run()
        self._wanted.pop(key, None)
        self._wanted[key] = run  # the last
        if self._at_once:
            self._capture(key, run)

    @contextmanager
    def at_once(self, capture: bool) -> Iterator[None]:
        """Within the block every pass is captured, or none of them; for the warm-up, while no stream runs."""
        self._at_once = capture
        self._not_before = math.inf
        try:
            yield
        finally:
            self._at_once, self._not_before = False, 0.0

    def capture_pending(self) -> bool:
        """Capture the pass that ran last without a graph; False when there is none."""
        if not self._wanted:
            return False
        key = next(reversed(self._wanted))
        self._capture(key, self._wanted[key])
        return True

    def discard(self, condition: Callable[[K], bool]) -> None:
        """Discard the graphs, captured or wanted, whose key meets ``condition``."""
        for held in (self._graphs, self._wanted):
            for key in [key for key in held if condition(key)]:
                del held[key]

    def _capture(self, key: K, run: Callable[[], object]) -> None:
        """Capture a pass that has run before, so that all it needs is compiled and loaded; nothing is computed."""
        began = time.monotonic()
        self._wanted.pop(key, None)
        left = torch.cuda.mem_get_info()[0]
        if left < FLOOR:
            self._wanted.clear()
            return
        if self._at_once and self.bytes >= self._budget:
            return
        try:
            self._graphs[key] = self._captured(run)
            self._bytes[key] = max(0, left - torch.cuda.mem_get_info()[0])
        except Exception as error:  # slower without, but the step itself is done
            if not is_out_of_memory(error):
                raise
            log.warning("no memory to capture %s; it runs uncaptured", key)
        while len(self._graphs) > 1 and self.bytes > self._budget:
            self._graphs.popitem()  # the one that ran longest ago
        now = time.monotonic()
        if not self._at_once:
            self._not_before = now + (now - began) * (1 / CAPTURE_FRACTION - 1)

    def _captured(self, run: Callable[[], object]) -> Any:
        """A graph of ``run``. Unlike `torch.cuda.graph` it neither waits for the device nor empties the allocator."""
        graph = torch.cuda.CUDAGraph()
        stream, current = self._stream, torch.cuda.current_stream()
        assert stream is not None
        stream.wait_stream(current)
        with torch.cuda.stream(stream), _no_collection():
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
        """End a capture whose pass failed; CUDA reports that as an error, too."""
        try:
            graph.capture_end()
        except RuntimeError:
            log.debug("an abandoned capture could not be ended", exc_info=True)
