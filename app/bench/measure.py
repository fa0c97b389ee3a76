"""Times of every system on every case, and what follows from them."""

import itertools
import queue
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field

from app.bench.baselines import Baselines
from app.bench.over_http import Rate
from app.bench.workload import Case, make_clip, make_conversation
from app.engine.request import Done, Event, Failed, Request, Token
from app.engine.sampling_params import SamplingParams
from app.service import GenerationInput, Service

_seeds = itertools.count(1_000)  # a clip of its own for every request: the encoder cache stays out of it
MOST_TURNS = 8  # more turns take longer and show nothing new
MOST_MIXED = 32  # PEFT's batches grow no faster beyond it
Run = Callable[[Case, int], None]


@dataclass(frozen=True)
class Result:
    """``ttft_ms``: until all have their first token. Rates in tokens/s over all requests."""

    system: str
    case: str
    ttft_ms: float
    decode_rate: float
    total_rate: float

    def as_dict(self) -> dict[str, float | int | str]:
        return asdict(self)


@dataclass
class Trace:
    """When each token of some requests came, in seconds since they were submitted together."""

    tokens: list[list[float]] = field(default_factory=list)
    done: list[Done] = field(default_factory=list)

    @property
    def first(self) -> list[float]:
        return [times[0] for times in self.tokens]

    @property
    def end(self) -> float:
        return max(times[-1] for times in self.tokens)

    @property
    def decode_rate(self) -> float:
        """Tokens/s while all requests decode: from the last first token to the first last one."""
        begin, end = max(self.first), min(times[-1] for times in self.tokens)
        counted = sum(begin < moment <= end for times in self.tokens for moment in times)
        return counted / max(end - begin, 1e-9)


def sustained_rate(service: Service, case: Case, new_tokens: int, rounds: int) -> Rate:
    """Each request is followed by another, ``rounds`` in a row; every one has a clip of its own.

    An answer may end early here, as it may through HTTP.
    """
    ended: queue.SimpleQueue[tuple[int, Done | Failed]] = queue.SimpleQueue()
    sampling = SamplingParams(max_new_tokens=new_tokens)
    submitted, first = [0.0] * case.requests, list[float]()

    def request(index: int) -> Request:
        waits = True

        def emit(event: Event) -> None:
            nonlocal waits
            if isinstance(event, Done | Failed):
                ended.put((index, event))
            elif waits:
                waits = False
                first.append(time.perf_counter() - submitted[index])

        clip = make_clip(service.loaded, next(_seeds), case.seconds)
        adapters = service.adapters.resolve(case.adapter_of(index) or "base")
        return service.request(GenerationInput(make_conversation(clip), adapters, sampling), emit)

    waiting = [[request(index) for _ in range(rounds)] for index in range(case.requests)]
    tokens = 0
    begun = time.perf_counter()
    for index, requests in enumerate(waiting):
        submitted[index] = time.perf_counter()
        service.engine.submit(requests.pop())
    for _ in range(case.requests * rounds):
        index, event = ended.get()
        if isinstance(event, Failed):
            raise event.error
        tokens += event.completion_tokens
        if waiting[index]:
            submitted[index] = time.perf_counter()
            service.engine.submit(waiting[index].pop())
    return Rate(tokens / (time.perf_counter() - begun), 1e3 * statistics.median(first))


def trace(service: Service, case: Case, new_tokens: int, seed: int | None = None) -> Trace:
    """All requests at once through the engine, until the last has ended; ``seed`` gives all the same clip."""
    events: queue.SimpleQueue[tuple[int, float, Event]] = queue.SimpleQueue()
    sampling = SamplingParams(max_new_tokens=new_tokens, ignore_eos=True)
    requests = []
    for index in range(case.requests):
        clip = make_clip(service.loaded, next(_seeds) if seed is None else seed, case.seconds)

        def emit(event: Event, index: int = index) -> None:
            events.put((index, time.perf_counter(), event))

        adapters = service.adapters.resolve(case.adapter_of(index) or "base")
        requests.append(service.request(GenerationInput(make_conversation(clip), adapters, sampling), emit))
    found = Trace([[] for _ in requests])
    begun = time.perf_counter()
    for request in requests:
        service.engine.submit(request)
    while len(found.done) < case.requests:
        index, moment, event = events.get()
        if isinstance(event, Failed):
            raise event.error
        if isinstance(event, Done):
            found.done.append(event)
        elif isinstance(event, Token) and event.id is not None:
            found.tokens[index].append(moment - begun)
    return found


def baselines_of(baselines: Baselines, case: Case) -> Iterator[tuple[str, Run]]:
    """The other systems that can serve a case, the slowest first."""
    if not case.adapters and case.requests <= MOST_MIXED:
        yield "transformers", baselines.transformers
    if case.adapters and case.requests <= MOST_TURNS:
        yield "PEFT set_adapter by turns", baselines.peft_by_turns
    if case.adapters and case.requests <= MOST_MIXED:
        yield "PEFT mixed batch", baselines.peft_mixed


def measure_baseline(name: str, run: Run, case: Case, new_tokens: int, repeats: int) -> Result:
    """Median times of one token and of ``new_tokens`` a request; the difference is decoding."""
    run(case, 2)
    first = _median(lambda: run(case, 1), repeats)
    whole = _median(lambda: run(case, new_tokens), repeats)
    tokens = case.requests * new_tokens
    decode_rate = case.requests * (new_tokens - 1) / max(whole - first, 1e-9)
    return Result(name, str(case), 1e3 * first, decode_rate, tokens / whole)


def measure_engine(service: Service, case: Case, new_tokens: int, repeats: int) -> Result:
    """Medians over ``repeats``. Decoding is measured while the whole batch decodes, on answers long enough for that."""
    trace(service, case, 2)
    answers = [trace(service, case, new_tokens) for _ in range(repeats)]
    longer = [trace(service, case, new_tokens + case.requests).decode_rate for _ in range(repeats)]
    return Result(
        "Overtone",
        str(case),
        1e3 * statistics.median(max(answer.first) for answer in answers),
        statistics.median(longer),
        statistics.median(case.requests * new_tokens / answer.end for answer in answers),
    )


def _median(function: Callable[[], None], repeats: int) -> float:
    times = []
    for _ in range(repeats):
        begun = time.perf_counter()
        function()
        times.append(time.perf_counter() - begun)
    return statistics.median(times)
