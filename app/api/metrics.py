"""Prometheus metrics, in a registry of their own for each app."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.api.latency import Latencies
from app.audio.pool import DecodingPool
from app.engine.engine import Engine
from app.engine.request import Done, Failed, LoRAWeight
from app.jobs.runner import Jobs
from app.registry.adapter import Adapter
from app.registry.remote import RemoteStore

# seconds; from a small model on a GPU to a large one under load
_WAITS = (0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60, 120, 300)
_BETWEEN_TOKENS = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1)


@dataclass
class AdapterUse:
    """Work of one adapter since start."""

    requests: int = 0
    completion_tokens: int = 0
    audio_seconds: float = 0.0


class Metrics:
    """Counters per request, and collectors that read the engine's own counters."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._usage: dict[tuple[str, str | None], AdapterUse] = {}
        self.latencies = Latencies()
        registry = self.registry
        labels = ["adapter"]
        self._requests = Counter(
            "overtone_requests", "Requests that ended, by outcome", ["adapter", "outcome"], registry=registry
        )
        self._http = Counter("overtone_http_responses", "HTTP responses", ["route", "status"], registry=registry)
        self._ttft = Histogram(
            "overtone_ttft_seconds", "Time to first token", labels, buckets=_WAITS, registry=registry
        )
        self._between = Histogram(
            "overtone_inter_token_seconds",
            "Mean time between tokens of a request",
            labels,
            buckets=_BETWEEN_TOKENS,
            registry=registry,
        )
        self._total = Histogram(
            "overtone_request_seconds", "Whole time of a request", labels, buckets=_WAITS, registry=registry
        )
        ProcessCollector(registry=registry)  # memory, CPU time, open files
        self._audio = Counter("overtone_audio_seconds", "Audio that the model received", labels, registry=registry)
        self._prompt = Counter("overtone_prompt_tokens", "Prompt tokens, audio included", labels, registry=registry)
        self._completion = Counter("overtone_completion_tokens", "Tokens generated", labels, registry=registry)

    def watch(self, engine: Engine) -> None:
        """Read the engine's own counters at each scrape."""
        self.registry.register(_EngineCollector(engine))

    def watch_decoders(self, pools: Sequence[DecodingPool[Any]]) -> None:
        """Count at each scrape the processes that died while they decoded a recording."""
        self.registry.register(_DecoderCollector(pools))

    def watch_jobs(self, jobs: Jobs) -> None:
        """Count training jobs at each scrape."""
        self.registry.register(_JobCollector(jobs))

    def watch_shared(self, store: RemoteStore) -> None:
        """Report at each scrape the state of the store that replicas share."""
        self.registry.register(_SharedCollector(store))

    def ended(
        self, adapters: tuple[LoRAWeight, ...], event: Done | Failed, decoding_seconds: float, audio_seconds: float
    ) -> None:
        """Count a request that ended. ``decoding_seconds``: decoding and features, before it was queued."""
        label = _label(adapters)
        if isinstance(event, Failed):
            self._requests.labels(label, event.error.code).inc()
            return
        self._requests.labels(label, event.finish_reason).inc()
        for weight in adapters:
            self._used(weight.adapter, audio_seconds).completion_tokens += event.completion_tokens
        self._audio.labels(label).inc(audio_seconds)
        self._prompt.labels(label).inc(event.prompt_tokens)
        self._completion.labels(label).inc(event.completion_tokens)
        if event.finish_reason == "cancelled":
            return
        timings = event.timings
        ttft, total = decoding_seconds + timings.ttft / 1e3, decoding_seconds + timings.total / 1e3
        between = timings.decode / 1e3 / (event.completion_tokens - 1) if event.completion_tokens > 1 else None
        self._ttft.labels(label).observe(ttft)
        self._total.labels(label).observe(total)
        if between is not None:
            self._between.labels(label).observe(between)
        self.latencies.add(label, total, ttft, between)

    def usage(self, adapter: Adapter) -> AdapterUse:
        """Since start, under this owner: a name that another tenant gave up starts anew."""
        return self._usage.get((adapter.name, adapter.manifest.owner), AdapterUse())

    def classified(self, adapter: Adapter, outcome: str, audio_seconds: float, took_s: float) -> None:
        """Count a classification that ended: `classified`, `cancelled`, or an error's code."""
        self._requests.labels(adapter.name, outcome).inc()
        if outcome == "classified":
            self._used(adapter, audio_seconds)
            self._audio.labels(adapter.name).inc(audio_seconds)
            self._total.labels(adapter.name).observe(took_s)
            self.latencies.add(adapter.name, took_s)

    def _used(self, adapter: Adapter, audio_seconds: float) -> AdapterUse:
        usage = self._usage.setdefault((adapter.name, adapter.manifest.owner), AdapterUse())
        usage.requests += 1
        usage.audio_seconds += audio_seconds
        return usage

    def responded(self, route: str, status: int) -> None:
        self._http.labels(route, str(status)).inc()

    def text(self) -> bytes:
        """Everything in Prometheus' text format."""
        return generate_latest(self.registry)


class CountResponses:
    """ASGI middleware: one count per response, by route template and status."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def counting_send(message: Message) -> None:
            if message["type"] == "http.response.start":
                route = scope.get("route")
                # a path that no route has is a label of its own making: all count as one
                self._metrics.responded(getattr(route, "path", "none"), message["status"])
            await send(message)

        await self._app(scope, receive, counting_send if scope["type"] == "http" else send)


class _EngineCollector(Collector):
    """Gauges and counters of the engine at this moment."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def collect(self) -> Iterable[Metric]:
        engine = self._engine
        snapshot, stats = engine.snapshot, engine.stats
        yield from _gauges(
            ("queue_depth", "Requests waiting", snapshot.waiting),
            ("running_sequences", "Sequences being continued", snapshot.running),
            ("classifications", "Classifications waiting", len(engine.pooling)),
            ("batch_size", "Sequences in the last step", stats.last_batch),
            ("slots_used", "Adapters resident", len(snapshot.resident)),
            ("slots_total", "Adapter slots", snapshot.max_resident),
            ("slots_pinned", "Adapters pinned", len(snapshot.pinned)),
            ("kv_pages_used", "KV cache pages in use", snapshot.used_blocks),
            ("kv_pages_free", "KV cache pages free", snapshot.free_blocks),
        )
        yield from _counters(
            ("steps", "Engine steps", stats.steps),
            ("step_seconds", "Time spent in steps", stats.step_seconds),
            ("generated_tokens", "Tokens generated", stats.generated_tokens),
            ("rejections", "Requests refused because the queue was full", stats.rejected),
            ("failures", "Requests that failed", stats.failed),
            ("preemptions", "Sequences put back for lack of KV pages", snapshot.preemptions),
            ("adapter_cold_loads", "Adapters copied into a slot", snapshot.cold_loads),
            ("adapter_evictions", "Adapters evicted from a slot", snapshot.evictions),
            ("encoder_cache_hits", "Clips found in the encoder's cache", snapshot.encoder_hits),
            ("encoder_cache_misses", "Clips that had to be encoded", snapshot.encoder_misses),
        )


class _DecoderCollector(Collector):
    """Processes that decode recordings."""

    def __init__(self, pools: Sequence[DecodingPool[Any]]) -> None:
        self._pools = pools

    def collect(self) -> Iterable[Metric]:
        crashes = sum(pool.crashes for pool in self._pools)
        yield from _counters(("decoder_crashes", "Decoding processes that a recording ended", crashes))


class _JobCollector(Collector):
    """Training jobs as they stand at this moment."""

    def __init__(self, jobs: Jobs) -> None:
        self._jobs = jobs

    def collect(self) -> Iterable[Metric]:
        family = GaugeMetricFamily("overtone_training_jobs", "Training jobs, by state", labels=["state"])
        for state, count in self._jobs.counts().items():
            family.add_metric([state], count)
        yield family


class _SharedCollector(Collector):
    """The shared store as this replica last saw it."""

    def __init__(self, store: RemoteStore) -> None:
        self._store = store

    def collect(self) -> Iterable[Metric]:
        yield from _gauges(
            ("shared_store_up", "The shared store was reached at the last try", self._store.failure is None),
            ("shared_store_age_seconds", "Since the shared store was last reached", self._store.age),
        )


def _gauges(*rows: tuple[str, str, float]) -> Iterator[Metric]:
    for name, words, value in rows:
        yield GaugeMetricFamily(f"overtone_{name}", words, value=value)


def _counters(*rows: tuple[str, str, float]) -> Iterator[Metric]:
    for name, words, value in rows:
        yield CounterMetricFamily(f"overtone_{name}", words, value=value)


def _label(shares: tuple[LoRAWeight, ...]) -> str:
    """Few values: names in the registry, `base` and `mix`."""
    if not shares:
        return "base"
    return shares[0].adapter.name if len(shares) == 1 else "mix"
