"""The same load through HTTP: a client's view of a running server."""

import asyncio
import io
import json
import time

import httpx
import numpy as np
import soundfile

from app.bench.workload import WORDS, Case

RATE = 16_000


def tokens_per_second(url: str, case: Case, seconds: float, new_tokens: int) -> float:
    """Stream all requests of a case at once from ``url``: all tokens over the time until the last answer's end."""
    return asyncio.run(_stream_all(url, case, seconds, new_tokens))


async def _stream_all(url: str, case: Case, seconds: float, new_tokens: int) -> float:
    recordings = [_recording(index, seconds) for index in range(case.requests)]
    async with httpx.AsyncClient(base_url=url, timeout=300, limits=httpx.Limits(max_connections=None)) as client:
        begun = time.perf_counter()
        tokens = await asyncio.gather(
            *(
                _stream(client, recording, case.adapter_of(index) or "base", new_tokens)
                for index, recording in enumerate(recordings)
            )
        )
        return sum(tokens) / (time.perf_counter() - begun)


async def _stream(client: httpx.AsyncClient, recording: bytes, adapter: str, new_tokens: int) -> int:
    """Tokens of one answer, as its last event counts them."""
    form = {"prompt": WORDS, "adapter": adapter, "max_new_tokens": str(new_tokens), "stream": "true"}
    kind, data = "", {}
    async with client.stream("POST", "/generate", data=form, files={"audio": recording}) as answer:
        if answer.is_error:
            raise RuntimeError(f"{answer.status_code}: {(await answer.aread()).decode(errors='replace')}")
        async for line in answer.aiter_lines():
            if line.startswith("event: "):
                kind = line.removeprefix("event: ")
            elif line.startswith("data: ") and kind != "token":
                data = json.loads(line.removeprefix("data: "))
    if kind != "done":
        raise RuntimeError(data.get("detail", "the stream ended before its answer"))
    return int(data["usage"]["completion_tokens"])


def _recording(seed: int, seconds: float) -> bytes:
    """Noise as a WAV file, no two alike."""
    samples = 0.1 * np.random.default_rng(seed).standard_normal(round(seconds * RATE))
    buffer = io.BytesIO()
    soundfile.write(buffer, samples.astype(np.float32), RATE, format="WAV", subtype="PCM_16")
    return buffer.getvalue()
