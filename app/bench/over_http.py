"""The same load through HTTP: what clients see of a running server. Several processes, or they would be the limit."""

import asyncio
import io
import multiprocessing
import os
import statistics
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing.synchronize import Barrier

import httpx
import numpy as np
import soundfile

from app.bench.client import NO_LIMIT, ask

RATE = 16_000
_MOST_PROCESSES = 8
_all_ready: Barrier  # of a client process, from its start on


@dataclass(frozen=True)
class Load:
    """One client for each of ``adapters``; each asks about clips of ``seconds``, ``rounds`` times in a row."""

    url: str
    prompt: str
    adapters: Sequence[str]
    seconds: float
    new_tokens: int
    rounds: int


@dataclass(frozen=True)
class Rate:
    """Tokens/s over all clients, and the median time from a request to its first token, in ms."""

    tokens_per_second: float
    first_token_ms: float


def rate_of(load: Load) -> Rate:
    """All tokens over the time until the last answer's end, after an answer to each client that does not count."""
    count = min(_MOST_PROCESSES, len(load.adapters), max(1, (os.cpu_count() or 1) // 2))
    clients = [range(len(load.adapters))[index::count] for index in range(count)]
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(count, spawn, _keep_barrier, (spawn.Barrier(count),)) as processes:
        for rounds in (range(1), range(1, 1 + load.rounds)):
            found = list(processes.map(_ask, [load] * count, clients, [rounds] * count))
    begins, ends, answers = zip(*found, strict=True)
    tokens, firsts = zip(*(answer for some in answers for answer in some), strict=True)
    return Rate(sum(tokens) / (max(ends) - min(begins)), 1e3 * statistics.median(firsts))


def _keep_barrier(barrier: Barrier) -> None:
    global _all_ready
    _all_ready = barrier


_Answers = list[tuple[int, float]]  # tokens of each answer, and seconds until its first


def _ask(load: Load, clients: Sequence[int], rounds: Sequence[int]) -> tuple[float, float, _Answers]:
    """When some of the clients began and ended, and their answers. All processes begin together."""
    recordings = {
        client: [noise(client + len(load.adapters) * number, load.seconds) for number in rounds] for client in clients
    }
    _all_ready.wait()
    return asyncio.run(_ask_all(load, recordings))


async def _ask_all(load: Load, recordings: dict[int, list[bytes]]) -> tuple[float, float, _Answers]:
    async def one_client(number: int) -> _Answers:
        return [await _stream(http, load, recording, load.adapters[number]) for recording in recordings[number]]

    async with httpx.AsyncClient(base_url=load.url, timeout=300, limits=NO_LIMIT, trust_env=False) as http:
        begun = time.monotonic()  # one clock for all processes
        answers = await asyncio.gather(*(one_client(number) for number in recordings))
        return begun, time.monotonic(), [answer for some in answers for answer in some]


async def _stream(http: httpx.AsyncClient, load: Load, recording: bytes, adapter: str) -> tuple[int, float]:
    """Tokens of one answer, as its last event counts them, and seconds until its first."""
    fields = {"prompt": load.prompt, "adapter": adapter, "max_new_tokens": str(load.new_tokens)}
    reply = await ask(http, fields, recording)
    if reply.kind != "done":
        raise RuntimeError(reply.body.get("detail", "the stream ended before its answer"))
    return int(reply.body["usage"]["completion_tokens"]), reply.first


def noise(seed: int, seconds: float) -> bytes:
    """Noise as a WAV file, no two alike."""
    samples = 0.1 * np.random.default_rng(seed).standard_normal(round(seconds * RATE))
    return encoded(samples.astype(np.float32), "WAV")


def encoded(samples: np.ndarray, container: str) -> bytes:
    """Samples [n] at `RATE` as a 16-bit file."""
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, RATE, format=container, subtype="PCM_16")
    return buffer.getvalue()
