"""The soak itself: warm up, mark, load, drain, compare."""

import asyncio
import random
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from typing import Any

import httpx

from app.bench.client import NO_LIMIT, percentile
from app.bench.soak.clients import Crowd
from app.bench.soak.footprint import Footprint, Server, footprint, metrics, settled
from app.bench.soak.operator import Operator
from app.bench.soak.oracle import Texts
from app.bench.soak.repertoire import Adapter, Sound
from app.bench.soak.verdict import Verdict, judge

# Small enough that every limit is met: adapters are evicted, sequences wait and are put back, caches overflow.
SETTINGS = {
    "dtype": "float32",
    "cpu_threads": "1",  # the other core is the clients'
    "max_batch": "32",
    "step_tokens": "256",
    "max_resident": "3",
    "kv_gb": "0.02",
    "host_cache_mb": "4",
    "encoder_cache_mb": "2",
    "watch_seconds": "0.5",
    "keep_versions": "2",
}
WARM_SHARE = 0.2  # of the whole time; the start is marked after it
MEMORY_TOLERANCE = 128 << 20  # the mark after the warm-up itself differs by 90 MB from run to run
COUNTERS = (
    "steps",
    "preemptions",
    "adapter_cold_loads",
    "adapter_evictions",
    "encoder_cache_hits",
    "encoder_cache_misses",
)


@dataclass(frozen=True)
class Score:
    """What is played: recordings, adapters, and what PEFT answers to all of it."""

    sounds: Sequence[Sound]
    adapters: Mapping[str, Adapter]
    texts: Texts


@dataclass(frozen=True)
class Soaked:
    """What a soak saw. ``start``: after the warm-up. ``failures``: in words, with request ids."""

    minutes: float
    clients: int
    requests: int
    left: int
    verdict: Verdict
    operations: Mapping[str, int]
    counters: Mapping[str, int]
    tokens_per_second: float
    p50_seconds: float
    p99_seconds: float
    start: Footprint
    peak_memory: int
    end: Footprint
    failures: Sequence[str]

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def soak(server: Server, minutes: float, clients: int, score: Score, progress: Callable[[str], None]) -> Soaked:
    """Run clients and operator against ``server``, which was started with `SETTINGS` and an empty registry."""
    return asyncio.run(_Soak(server, minutes, clients, score, progress).run())


@dataclass
class _Soak:
    server: Server
    minutes: float
    clients: int
    score: Score
    progress: Callable[[str], None]
    crowds: list[Crowd] = field(default_factory=list)
    peak_memory: int = 0
    drawn: random.Random = field(default_factory=lambda: random.Random(0))

    async def run(self) -> Soaked:
        seconds = 60 * self.minutes
        async with httpx.AsyncClient(base_url=self.server.url, timeout=120, trust_env=False) as http:
            operator = Operator(http, self.score.adapters, self.drawn)
            await self._load(operator, WARM_SHARE * seconds)
        start = await settled(self.server, _idle)
        async with httpx.AsyncClient(base_url=self.server.url, timeout=120, trust_env=False) as http:
            operator.http = http
            await self._load(operator, (1 - WARM_SHARE) * seconds)
            told = await metrics(http)
        end = await settled(self.server, lambda now: not now.beyond(start, MEMORY_TOLERANCE))
        return self._told(operator, start, end, {name: int(told[f"overtone_{name}_total"]) for name in COUNTERS})

    async def _load(self, operator: Operator, seconds: float) -> None:
        """Clients and operator together, until all is drained and every adapter gone."""
        async with httpx.AsyncClient(base_url=self.server.url, timeout=300, limits=NO_LIMIT, trust_env=False) as http:
            self.crowds.append(Crowd(http, self.score.sounds, self.drawn, first=sum(c.number for c in self.crowds)))
            await operator.begin()
            until = time.monotonic() + seconds
            watch = asyncio.create_task(self._watch(until))
            await asyncio.gather(self.crowds[-1].ask_until(until, self.clients), operator.work(until))
            watch.cancel()
            with suppress(asyncio.CancelledError):
                await watch
        await operator.clear()

    async def _watch(self, until: float) -> None:
        while True:
            memory = (await footprint(self.server)).memory
            self.peak_memory = max(self.peak_memory, memory)
            left, answers = until - time.monotonic(), sum(len(crowd.asked) for crowd in self.crowds)
            self.progress(f"{max(0, left):.0f} s left, {answers} answers, {memory >> 20} MB")
            await asyncio.sleep(1)

    def _told(self, operator: Operator, start: Footprint, end: Footprint, counters: Mapping[str, int]) -> Soaked:
        warm, crowd = self.crowds
        verdict = judge([*warm.asked, *crowd.asked], self.score.texts, operator)
        back = end.beyond(start, MEMORY_TOLERANCE)
        groups = {"lost": warm.lost + crowd.lost, "wrong": verdict.mismatches, "failed": verdict.failures}
        groups |= {"operator": operator.faults, "not back at the start": back}
        replies = [asked.reply for asked in crowd.asked if asked.reply.kind == "done"]
        took = [reply.seconds for reply in replies]
        tokens = sum(reply.body["usage"]["completion_tokens"] for reply in replies)
        return Soaked(
            minutes=self.minutes,
            clients=self.clients,
            requests=warm.number + crowd.number - crowd.first,
            left=warm.left + crowd.left,
            verdict=verdict,
            operations=dict(operator.done),
            counters=counters,
            tokens_per_second=tokens / (60 * self.minutes * (1 - WARM_SHARE)),
            p50_seconds=percentile(took, 0.5),
            p99_seconds=percentile(took, 0.99),
            start=start,
            peak_memory=max(self.peak_memory, start.memory, end.memory),
            end=end,
            failures=[f"{what}: {one}" for what, found in groups.items() for one in found],
        )


def _idle(now: Footprint) -> bool:
    return not (now.kv_pages or now.slots or now.pins or now.in_line or now.leftovers)
