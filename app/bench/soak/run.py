"""The soak itself: warm up, mark, load, drain, compare."""

import asyncio
import random
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from typing import Any

from app.bench.client import NO_LIMIT, percentile
from app.bench.soak.clients import ClientPool
from app.bench.soak.hostile import HostileTenant
from app.bench.soak.operator import Operator
from app.bench.soak.oracle import ExpectedTexts
from app.bench.soak.resources import HealthProbe, ResourceUsage, Server, metrics, resource_usage, settled
from app.bench.soak.tenants import own_adapter
from app.bench.soak.verdict import Verdict, judge
from app.bench.soak.workload import Adapter, Sound

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
# Beside a hostile tenant: what one may take of the disk and of the training queue is small, so that quotas are met.
HOSTILE_SETTINGS = {"max_adapter_mb": "64", "max_dataset_mb": "64", "max_waiting_jobs": "8", "keep_jobs": "16"}
HOSTILE_MEMORY = 1 << 30  # bytes beyond those of a server that has just started
HEALTH_S = 1.0  # in which /health answers, whatever a hostile tenant does
OWN_WEIGHTS = "alto.0"  # of the adapter that each honest tenant has for itself
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
class Workload:
    """Recordings, adapters, and PEFT's answers to all combinations."""

    sounds: Sequence[Sound]
    adapters: Mapping[str, Adapter]
    texts: ExpectedTexts


@dataclass(frozen=True)
class SoakReport:
    """Results of a soak. ``start``: after the warm-up. ``failures``: sentences with request ids.

    ``fresh_memory``: bytes before any load. ``attacks``: of the hostile tenant, by kind, and ``attacks_answered`` by
    status. ``health_worst``: the longest wait for `/health`, s.
    """

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
    start: ResourceUsage
    peak_memory: int
    end: ResourceUsage
    fresh_memory: int
    health_worst: float
    attacks: Mapping[str, int]
    attacks_answered: Mapping[int, int]
    failures: Sequence[str]

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def soak(
    server: Server, minutes: float, clients: int, workload: Workload, progress: Callable[[str], None]
) -> SoakReport:
    """Run clients and operator against ``server``, which was started with `SETTINGS` and an empty registry.

    With keys, the clients are of honest tenants, and a hostile tenant attacks beside them; `HOSTILE_SETTINGS` too.
    """
    return asyncio.run(_Soak(server, minutes, clients, workload, progress).run())


@dataclass
class _Soak:
    server: Server
    minutes: float
    clients: int
    workload: Workload
    progress: Callable[[str], None]
    pools: list[ClientPool] = field(default_factory=list)
    peak_memory: int = 0
    drawn: random.Random = field(default_factory=lambda: random.Random(0))
    fresh_memory: int = 0
    hostile: HostileTenant | None = None

    async def run(self) -> SoakReport:
        seconds = 60 * self.minutes
        self.fresh_memory = (await resource_usage(self.server)).memory
        if keys := self.server.keys:
            self.hostile = HostileTenant(self.server.url, keys.hostile, self.workload.adapters, self.workload.sounds)
        with HealthProbe(self.server.url) as health:
            async with self.server.client(timeout=120) as http:
                operator = Operator(http, self.workload.adapters, self.drawn)
                await self._publish_own(operator)
                await self._load(operator, WARM_SHARE * seconds)
            start = await settled(self.server, _idle)
            async with self.server.client(timeout=120) as operator.http:
                await self._load(operator, (1 - WARM_SHARE) * seconds)
                values = await metrics(operator.http)
        end = await settled(self.server, lambda now: not now.beyond(start, MEMORY_TOLERANCE))
        counters = {name: int(values[f"overtone_{name}_total"]) for name in COUNTERS}
        return self._report(operator, health, start, end, counters)

    async def _publish_own(self, operator: Operator) -> None:
        """Each honest tenant's own adapter, which stays as it is to the end."""
        archive = self.workload.adapters[OWN_WEIGHTS].archive
        for tenant, key in (self.server.keys.honest if self.server.keys else {}).items():
            form, files = {"name": own_adapter(tenant)}, {"file": ("own.zip", archive)}
            answer = await operator.http.post("/adapters", data=form, files=files, headers={"X-API-Key": key})
            version = answer.raise_for_status().json()["version"]
            operator.weights[f"{own_adapter(tenant)}@{version}"] = OWN_WEIGHTS

    async def _load(self, operator: Operator, seconds: float) -> None:
        """Clients, operator and hostile tenant together, until all is drained and every adapter of theirs gone."""
        keys = self.server.keys.honest if self.server.keys else {}
        first = sum(pool.number for pool in self.pools)
        async with self.server.client(timeout=300, limits=NO_LIMIT) as http:
            self.pools.append(ClientPool(http, self.workload.sounds, self.drawn, first, keys))
            await operator.begin()
            until = time.monotonic() + seconds
            watch = asyncio.create_task(self._watch(until))
            everyone = [self.pools[-1].ask_until(until, self.clients), operator.work(until)]
            await asyncio.gather(*everyone, *([self.hostile.attack(until)] if self.hostile else []))
            watch.cancel()
            with suppress(asyncio.CancelledError):
                await watch
        await operator.clear()

    async def _watch(self, until: float) -> None:
        while True:
            memory = (await resource_usage(self.server)).memory
            self.peak_memory = max(self.peak_memory, memory)
            left, answers = until - time.monotonic(), sum(len(pool.asked) for pool in self.pools)
            self.progress(f"{max(0, left):.0f} s left, {answers} answers, {memory >> 20} MB")
            await asyncio.sleep(1)

    def _report(
        self,
        operator: Operator,
        health: HealthProbe,
        start: ResourceUsage,
        end: ResourceUsage,
        counters: Mapping[str, int],
    ) -> SoakReport:
        warm, pool = self.pools
        verdict = judge([*warm.asked, *pool.asked], self.workload.texts, operator)
        back = end.beyond(start, MEMORY_TOLERANCE)
        groups = {"lost": warm.lost + pool.lost, "wrong": verdict.mismatches, "failed": verdict.failures}
        groups |= {"operator": operator.faults, "not back at the start": back}
        peak = max(self.peak_memory, start.memory, end.memory)
        if self.hostile:
            groups |= {"hostile tenant": self.hostile.faults, "beside it": self._beside(peak, health)}
        replies = [asked.reply for asked in pool.asked if asked.reply.kind == "done"]
        took = [reply.seconds for reply in replies]
        tokens = sum(reply.body["usage"]["completion_tokens"] for reply in replies)
        return SoakReport(
            minutes=self.minutes,
            clients=self.clients,
            requests=warm.number + pool.number - pool.first,
            left=warm.left + pool.left,
            verdict=verdict,
            operations=dict(operator.done),
            counters=counters,
            tokens_per_second=tokens / (60 * self.minutes * (1 - WARM_SHARE)),
            p50_seconds=percentile(took, 0.5),
            p99_seconds=percentile(took, 0.99),
            start=start,
            peak_memory=peak,
            end=end,
            fresh_memory=self.fresh_memory,
            health_worst=health.worst,
            attacks=dict(self.hostile.done) if self.hostile else {},
            attacks_answered=dict(self.hostile.answered) if self.hostile else {},
            failures=[f"{what}: {one}" for what, found in groups.items() for one in found],
        )

    def _beside(self, peak: int, health: HealthProbe) -> list[str]:
        """Effects of the hostile tenant on the process."""
        found = []
        if peak > self.fresh_memory + HOSTILE_MEMORY:
            found.append(f"memory: {peak >> 20} MB at its peak, {self.fresh_memory >> 20} MB before any load")
        if health.worst > HEALTH_S:
            found.append(f"/health answered after {health.worst:.2f} s")
        if health.failures:
            found.append(f"/health failed {health.failures} times")
        return found


def _idle(now: ResourceUsage) -> bool:
    return not (now.kv_pages or now.slots or now.pins or now.in_line or now.leftovers)
