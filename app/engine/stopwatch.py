"""Time that work takes, without making the host wait for the device."""

import time
from types import TracebackType

import torch


class Stopwatch:
    """Measures the block of a ``with`` statement: by events of the stream on CUDA, by the clock elsewhere."""

    def __init__(self, device: torch.device) -> None:
        self._events: tuple[torch.cuda.Event, torch.cuda.Event] | None = None
        if device.type == "cuda":
            self._events = _event(), _event()
        self._begun = self._ended = 0.0

    def __enter__(self) -> "Stopwatch":
        self._begun = time.monotonic()
        if self._events:
            self._events[0].record()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._events:
            self._events[1].record()
        self._ended = time.monotonic()

    @property
    def milliseconds(self) -> float:
        """On CUDA it waits for the block's end on the device; after a later result has been read there is no wait."""
        if self._events:
            self._events[1].synchronize()
            return float(self._events[0].elapsed_time(self._events[1]))
        return 1e3 * (self._ended - self._begun)


def _event() -> torch.cuda.Event:
    return torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
