"""Latency of one request, and its effect on others: an idle server, a burst, a cold adapter."""

import itertools
import statistics
import threading
import time
from collections.abc import Callable, Iterator

from app.bench.measure import Trace, trace
from app.bench.workload import Case
from app.service import Service

Figure = tuple[str, float, str]
BURST, NEW = 32, 128


def figures(service: Service, adapters: int, repeats: int, progress: Callable[[str], None]) -> Iterator[Figure]:
    """(what, figure, unit) one after the other; needs ``adapters`` of the bench's own in the registry."""
    one, base = Case(1, 1), Case(1, 0)

    def first(case: Case, seed: int | None = None) -> float:
        return 1e3 * trace(service, case, 2, seed).first[0]

    for seconds, clip in ((None, "clip that fills the window"), (5.0, "clip of 5 s")):
        for case, who in ((Case(1, 0, seconds=seconds), "base"), (Case(1, 1, seconds=seconds), "adapter")):
            progress(f"first token, {clip}, {who}")
            first(case)
            yield f"first token, {clip}, {who}", statistics.median(first(case) for _ in range(max(3, repeats))), "ms"
    progress("first token, the same clip again")
    again = [(first(base, seed), first(one, seed))[1] for seed in range(1, 1 + max(3, repeats))]
    yield "first token, the same clip again with an adapter", statistics.median(again), "ms"
    progress("burst")
    burst = Case(BURST, min(8, adapters))
    trace(service, burst, NEW)
    rates = [BURST * NEW / trace(service, burst, NEW).end for _ in range(repeats)]
    yield (
        f"{BURST} requests at once, {NEW} tokens each, {burst.adapters} adapters",
        statistics.median(rates),
        "tokens/s",
    )
    progress("a cold adapter")
    waits, gaps = zip(*(_cold(service) for _ in range(max(3, repeats))), strict=True)
    yield "activation of an adapter from disk", statistics.median(waits), "ms"
    yield "longest wait of a running stream meanwhile", max(gaps), "ms"
    progress("prompts arriving")
    yield f"inter-token time at {BURST} streams while prompts arrive, p99", _while_prompts_arrive(service, burst), "ms"


def _cold(service: Service) -> tuple[float, float]:
    """Wait for an adapter that only the disk holds, and the longest gap of another stream in that time, ms."""
    case = Case(1, 1)
    name = case.adapter_of(0)
    service.engine.free_slots(name).result()
    service.engine.call(service.engine.lora_manager.host.clear).result()
    running: list[Trace] = []
    tokens = service.engine.stats.generated_tokens
    other = threading.Thread(target=lambda: running.append(trace(service, Case(1, 0), 96)))
    other.start()
    while service.engine.stats.generated_tokens < tokens + 8:  # the other stream decodes by now
        time.sleep(0.001)
    cold = trace(service, Case(1, 1, seconds=1.0), 2)
    other.join()
    times = running[0].tokens[0]
    gaps = [later - earlier for earlier, later in itertools.pairwise(times)]
    return cold.done[0].timings.activation, 1e3 * max(gaps)


def _while_prompts_arrive(service: Service, case: Case) -> float:
    """99th percentile of the time between two tokens of a stream, ms, over streams that others join."""
    streams: list[Trace] = []
    first = threading.Thread(target=lambda: streams.append(trace(service, Case(case.requests - 8, case.adapters), 256)))
    first.start()
    for _ in range(4):
        streams.append(trace(service, Case(8, case.adapters), 16))
    first.join()
    gaps = sorted(
        later - earlier for stream in streams for times in stream.tokens for earlier, later in itertools.pairwise(times)
    )
    return 1e3 * gaps[int(0.99 * (len(gaps) - 1))]
