"""The same load through HTTP: a client's view of a running server."""

import asyncio
import io
import json
import time

import httpx
import numpy as np
import soundfile

from app.bench.measure import Trace
from app.bench.workload import WORDS, Case

RATE = 16_000


def stream_all(url: str, case: Case, seconds: float, new_tokens: int) -> Trace:
    """Stream all requests of a case at once from ``url``; when each token arrived here."""
    return asyncio.run(_stream_all(url, case, seconds, new_tokens))


async def _stream_all(url: str, case: Case, seconds: float, new_tokens: int) -> Trace:
    recordings = [_recording(index, seconds) for index in range(case.requests)]
    found = Trace([[] for _ in recordings])
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(base_url=url, timeout=300, limits=limits) as client:
        begun = time.perf_counter()
        await asyncio.gather(
            *(
                _stream(client, recording, case.adapter_of(index) or "base", new_tokens, begun, found.tokens[index])
                for index, recording in enumerate(recordings)
            )
        )
    return found


async def _stream(
    client: httpx.AsyncClient, recording: bytes, adapter: str, new_tokens: int, begun: float, times: list[float]
) -> None:
    form = {"prompt": WORDS, "adapter": adapter, "max_new_tokens": str(new_tokens), "stream": "true"}
    async with client.stream("POST", "/generate", data=form, files={"audio": recording}) as answer:
        answer.raise_for_status()
        kind = ""
        async for line in answer.aiter_lines():
            if line.startswith("event: "):
                kind = line.removeprefix("event: ")
            elif line.startswith("data: ") and kind == "token":
                times.append(time.perf_counter() - begun)
            elif line.startswith("data: ") and kind == "error":
                raise RuntimeError(json.loads(line.removeprefix("data: "))["detail"])


def _recording(seed: int, seconds: float) -> bytes:
    """Noise as a WAV file, no two alike."""
    samples = 0.1 * np.random.default_rng(seed).standard_normal(round(seconds * RATE))
    buffer = io.BytesIO()
    soundfile.write(buffer, samples.astype(np.float32), RATE, format="WAV", subtype="PCM_16")
    return buffer.getvalue()
