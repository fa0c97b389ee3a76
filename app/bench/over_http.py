"""The same load through HTTP: a client's view of a running server."""

import asyncio
import io
import time

import httpx
import numpy as np
import soundfile

from app.bench.client import NO_LIMIT, ask
from app.bench.workload import WORDS, Case

RATE = 16_000


def tokens_per_second(url: str, case: Case, seconds: float, new_tokens: int) -> float:
    """Stream all requests of a case at once from ``url``: all tokens over the time until the last answer's end."""
    return asyncio.run(_stream_all(url, case, seconds, new_tokens))


async def _stream_all(url: str, case: Case, seconds: float, new_tokens: int) -> float:
    recordings = [noise(index, seconds) for index in range(case.requests)]
    async with httpx.AsyncClient(base_url=url, timeout=300, limits=NO_LIMIT, trust_env=False) as client:
        begun = time.perf_counter()
        tokens = await asyncio.gather(
            *(
                _tokens(client, recording, case.adapter_of(index) or "base", new_tokens)
                for index, recording in enumerate(recordings)
            )
        )
        return sum(tokens) / (time.perf_counter() - begun)


async def _tokens(client: httpx.AsyncClient, recording: bytes, adapter: str, new_tokens: int) -> int:
    """Tokens of one answer, as its last event counts them."""
    fields = {"prompt": WORDS, "adapter": adapter, "max_new_tokens": str(new_tokens)}
    reply = await ask(client, fields, recording)
    if reply.kind != "done":
        raise RuntimeError(reply.body.get("detail", "the stream ended before its answer"))
    return int(reply.body["usage"]["completion_tokens"])


def noise(seed: int, seconds: float) -> bytes:
    """Noise as a WAV file, no two alike."""
    samples = 0.1 * np.random.default_rng(seed).standard_normal(round(seconds * RATE))
    return encoded(samples.astype(np.float32), "WAV")


def encoded(samples: np.ndarray, container: str) -> bytes:
    """Samples [n] at `RATE` as a 16-bit file."""
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, RATE, format=container, subtype="PCM_16")
    return buffer.getvalue()
