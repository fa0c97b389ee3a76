"""Times of every system on every case, and what follows from them."""

import itertools
import queue
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass

from app.bench.baselines import Baselines
from app.bench.workload import Case, make_clip, make_messages
from app.engine.request import Done, Event, Failed, Sampling
from app.service import Service

_seeds = itertools.count(1_000)  # a clip of its own for every request: the encoder cache stays out of it
MOST_TURNS = 8  # more turns take longer and tell nothing new
Run = Callable[[Case, int], None]


@dataclass(frozen=True)
class Result:
    """``ttft_ms``: until all have their first token. Rates in tokens/s over all requests."""

    system: str
    requests: int
    adapters: int
    ttft_ms: float
    decode_rate: float
    total_rate: float

    def as_dict(self) -> dict[str, float | int | str]:
        return asdict(self)


def run_engine(service: Service, case: Case, new_tokens: int) -> None:
    """All requests at once through the engine, until the last has ended."""
    events: queue.SimpleQueue[Event] = queue.SimpleQueue()
    sampling = Sampling(max_new_tokens=new_tokens, ignore_eos=True)
    for index in range(case.requests):
        messages = make_messages(make_clip(service.loaded, next(_seeds), case.seconds))
        service.engine.submit(service.request(messages, service.shares(case.adapter_of(index)), sampling, events.put))
    open_requests = case.requests
    while open_requests:
        event = events.get()
        if isinstance(event, Failed):
            raise event.error
        open_requests -= isinstance(event, Done)


def systems(service: Service, baselines: Baselines, case: Case) -> Iterator[tuple[str, Run]]:
    """The systems that can serve a case, the slowest first."""
    if case.adapters:
        if case.requests <= MOST_TURNS:
            yield "PEFT set_adapter by turns", baselines.peft_by_turns
        yield "PEFT mixed batch", baselines.peft_mixed
    else:
        yield "transformers", baselines.transformers
    yield "Overtone", lambda case, new_tokens: run_engine(service, case, new_tokens)


def measure(name: str, run: Run, case: Case, new_tokens: int, repeats: int) -> Result:
    """Median times of one token and of ``new_tokens`` a request; the difference is decoding."""
    run(case, 2)
    first = _median(lambda: run(case, 1), repeats)
    whole = _median(lambda: run(case, new_tokens), repeats)
    tokens = case.requests * new_tokens
    decode_rate = case.requests * (new_tokens - 1) / max(whole - first, 1e-9)
    return Result(name, case.requests, case.adapters, 1e3 * first, decode_rate, tokens / whole)


def _median(function: Callable[[], None], repeats: int) -> float:
    times = []
    for _ in range(repeats):
        begun = time.perf_counter()
        function()
        times.append(time.perf_counter() - begun)
    return statistics.median(times)
