"""Percentiles of the latest requests' durations, by adapter."""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from pydantic import BaseModel, Field

KEPT = 256  # requests of each adapter


class Percentiles(BaseModel):
    """Milliseconds: half of the requests, and 19 of 20, took no longer."""

    p50: float
    p95: float


class LatencyRow(BaseModel):
    """The latest requests of one adapter, `base` or `mix`."""

    adapter: str = Field(examples=["nato"])
    requests: int = Field(description="that the figures are of")
    ttft: Percentiles | None = Field(None, description="first token; none for classifications")
    per_token: Percentiles | None = Field(None, description="between two tokens, the mean of each request")
    total: Percentiles


@dataclass
class _Kept:
    ttft: deque[float] = field(default_factory=lambda: deque(maxlen=KEPT))
    per_token: deque[float] = field(default_factory=lambda: deque(maxlen=KEPT))
    total: deque[float] = field(default_factory=lambda: deque(maxlen=KEPT))


class Latencies:
    """Written on the event loop, read by any thread."""

    def __init__(self) -> None:
        self._kept: dict[str, _Kept] = {}

    def add(self, adapter: str, total: float, ttft: float | None = None, per_token: float | None = None) -> None:
        """Note a request that was answered; seconds."""
        kept = self._kept.setdefault(adapter, _Kept())
        kept.total.append(total)
        if ttft is not None:
            kept.ttft.append(ttft)
        if per_token is not None:
            kept.per_token.append(per_token)

    def rows(self) -> list[LatencyRow]:
        """One row an adapter, those most asked first."""
        found = []
        for adapter, kept in list(self._kept.items()):
            total = _percentiles(list(kept.total))
            if total:
                ttft, per_token = _percentiles(list(kept.ttft)), _percentiles(list(kept.per_token))
                count = len(kept.total)
                found.append(LatencyRow(adapter=adapter, requests=count, ttft=ttft, per_token=per_token, total=total))
        return sorted(found, key=lambda row: (-row.requests, row.adapter))


def _percentiles(seconds: Sequence[float]) -> Percentiles | None:
    """By nearest rank; None of nothing."""
    if not seconds:
        return None
    ordered = sorted(seconds)
    p50, p95 = (round(1e3 * ordered[min(len(ordered) - 1, int(share * len(ordered)))], 2) for share in (0.5, 0.95))
    return Percentiles(p50=p50, p95=p95)
