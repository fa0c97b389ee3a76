"""Ten times what a server can take: what it serves, how soon it refuses, how long those it took wait.

The peak is measured first, by clients that ask again as soon as they are answered; then questions arrive at a steady
rate, whether earlier ones are answered or not (an open loop, as strangers come). Both with the same questions, the same
client and the same machine, so that the client's own work takes from both alike.
"""

import asyncio
import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from http import HTTPStatus
from typing import Any

import httpx

from app.bench.client import NO_LIMIT, Reply, ask, percentile
from app.bench.over_http import noise
from app.errors import NotReady

TIMES = 10  # of the peak rate
LEAST_SHARE = 0.9  # of the peak rate that must still be served
REFUSED_WITHIN_S = 1.0  # 99th percentile
SETTINGS = {"cpu_threads": "1", "max_batch": "8", "max_queue": "8", "encoder_cache_mb": "1"}
LINE = int(SETTINGS["max_batch"]) + int(SETTINGS["max_queue"])
SLACK = 1.5  # on the bound of waiting: answers differ in length
CLIP_SECONDS = 3.0
RECORDINGS = 64  # no two alike, and more than the server keeps encoded
FIELDS = {"prompt": "Transcribe the audio.", "adapter": "base", "max_new_tokens": "32"}


@dataclass(frozen=True)
class Overloaded:
    """Rates in requests/s, waits in seconds. ``bound``: a full line at the peak rate, with `SLACK`."""

    seconds: float
    peak_rate: float
    offered_rate: float
    served_rate: float
    served: int
    refused: int
    refused_p50: float
    refused_p99: float
    served_p50: float
    served_p99: float
    bound: float
    failures: Sequence[str]

    @property
    def share(self) -> float:
        return self.served_rate / self.peak_rate

    def as_dict(self) -> dict[str, Any]:
        return asdict(self) | {"share": self.share}


def overload(url: str, seconds: float, progress: Callable[[str], None]) -> Overloaded:
    """Load a server that was started with `SETTINGS`: ``seconds`` at its peak, then as long at ten times that."""
    return asyncio.run(_overload(url, seconds, progress))


async def _overload(url: str, seconds: float, progress: Callable[[str], None]) -> Overloaded:
    async with httpx.AsyncClient(base_url=url, timeout=300, limits=NO_LIMIT, trust_env=False) as http:
        progress("measuring the peak")
        calm = _Load(http, seconds)
        await calm.closed_loop()
        peak = calm.served_rate
        if not peak:
            raise NotReady(f"No answer came within {seconds:.0f} s; give it more time.")
        progress(f"peak {peak:.1f} requests/s; offering {TIMES} times as many")
        storm = _Load(http, seconds)
        await storm.open_loop(TIMES * peak)
    served = [reply.seconds for _, reply in storm.replies if reply.kind == "done"]
    refused = [reply.seconds for _, reply in storm.replies if reply.status == HTTPStatus.TOO_MANY_REQUESTS]
    outcome = Overloaded(
        seconds=seconds,
        peak_rate=peak,
        offered_rate=storm.offered_rate,
        served_rate=storm.served_rate,
        served=len(served),
        refused=len(refused),
        refused_p50=percentile(refused, 0.5),
        refused_p99=percentile(refused, 0.99),
        served_p50=percentile(served, 0.5),
        served_p99=percentile(served, 0.99),
        bound=SLACK * LINE / peak,
        failures=calm.faults + storm.faults,
    )
    return replace(outcome, failures=[*outcome.failures, *_broken_promises(outcome)])


def _broken_promises(outcome: Overloaded) -> Iterator[str]:
    if outcome.share < LEAST_SHARE:
        yield f"served {outcome.share:.1%} of the peak rate, {LEAST_SHARE:.0%} are promised"
    if outcome.offered_rate < 0.9 * TIMES * outcome.peak_rate:
        yield f"this client managed to offer {outcome.offered_rate:.1f} requests/s only: the run proves nothing"
    if outcome.refused_p99 > REFUSED_WITHIN_S:
        yield f"a refusal took {outcome.refused_p99:.2f} s (p99), {REFUSED_WITHIN_S:g} s are promised"
    if outcome.served_p99 > outcome.bound:
        yield f"an accepted request took {outcome.served_p99:.2f} s (p99), {outcome.bound:.2f} s are promised"


class _Load:
    """One kind of load for so many seconds; rates count after the first quarter, when the line has filled.

    ``replies``: with the moment of `time.monotonic` at which each came. ``faults``: neither served nor refused.
    """

    def __init__(self, http: httpx.AsyncClient, seconds: float) -> None:
        self.replies: list[tuple[float, Reply]] = []
        self.faults: list[str] = []
        self.offered_rate = 0.0
        self._http = http
        self._recordings = itertools.cycle([noise(seed, CLIP_SECONDS) for seed in range(RECORDINGS)])
        self._counted_from = time.monotonic() + seconds / 4
        self._until = time.monotonic() + seconds

    @property
    def served_rate(self) -> float:
        served = [end for end, reply in self.replies if reply.kind == "done"]
        return sum(self._counted_from < end < self._until for end in served) / (self._until - self._counted_from)

    async def closed_loop(self) -> None:
        """As many clients as the server has room for, each with one question at a time."""

        async def client() -> None:
            while time.monotonic() < self._until:
                await self._ask()

        await asyncio.gather(*(client() for _ in range(LINE)))

    async def open_loop(self, rate: float) -> None:
        """``rate`` questions/s at equal distances, as far as this process manages."""
        begun = time.monotonic()
        asked: list[asyncio.Task[None]] = []
        while (now := time.monotonic()) < self._until:
            while len(asked) < rate * (now - begun):
                asked.append(asyncio.create_task(self._ask()))
            await asyncio.sleep(0.002)
        self.offered_rate = len(asked) / (time.monotonic() - begun)
        await asyncio.gather(*asked)

    async def _ask(self) -> None:
        try:
            reply = await ask(self._http, FIELDS, next(self._recordings))
        except httpx.TransportError as error:
            self.faults.append(f"{type(error).__name__} {error}")
            return
        self.replies.append((time.monotonic(), reply))
        if reply.kind != "done" and reply.status != HTTPStatus.TOO_MANY_REQUESTS:
            self.faults.append(f"{reply.status} {reply.kind or 'without an end'} {reply.body}")
