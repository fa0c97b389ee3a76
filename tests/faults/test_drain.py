"""SIGTERM: running requests end, late ones are told when to come back, and nobody is cut off without a word.

That running streams end within the drain time, with exit code 0: tests/api/test_process.py.
"""

import asyncio
import signal
import time
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from typing import Any

import httpx

from tests.api.conftest import events_of, until
from tests.api.test_process import ENDLESS, up


async def test_what_runs_longer_than_the_drain_time_is_told(start: Callable[..., Any]) -> None:
    """A stream, a whole answer, OpenAI's stream, and a request whose body was still on its way."""
    plain = {name: value for name, value in ENDLESS.items() if name != "stream"}
    chat = {"model": "base", "messages": [{"role": "user", "content": "go"}], "max_tokens": 1900, "stream": True}
    sent = asyncio.Event()

    async def slowly() -> AsyncIterator[bytes]:
        yield b'--x\r\nContent-Disposition: form-data; name="prompt"\r\n\r\ngo'
        await sent.wait()
        yield b"\r\n--x--\r\n"

    async with start(drain_seconds="2") as server:
        await up(server)
        client = server.client
        late = client.post("/generate", content=slowly(), headers={"content-type": "multipart/form-data; boundary=x"})
        asked = [client.post("/generate", data=ENDLESS), client.post("/generate", data=plain)]
        asked += [client.post("/v1/chat/completions", json=chat), late]
        tasks = [asyncio.create_task(one) for one in asked]
        await server.until_running(3)
        begun = time.monotonic()
        server.process.send_signal(signal.SIGTERM)

        async def draining() -> bool:
            with suppress(httpx.TransportError):  # no new connection is taken, and the one that is kept is told
                return (await client.get("/ready")).status_code == 503
            return True

        await until(draining)
        sent.set()
        stream, whole, openai, refused = await asyncio.gather(*tasks)
        assert await asyncio.wait_for(server.process.wait(), 60) == 0
        assert 2 <= time.monotonic() - begun < 60

    events = events_of(stream.text)
    assert len(events) > 2
    assert (events[-1][0], events[-1][1]["code"]) == ("error", "not_ready")
    for told in (whole, refused):
        assert (told.status_code, told.json()["code"], told.headers["retry-after"]) == (503, "not_ready", "5")
    *_, last, done = openai.text.strip().split("\n\n")
    assert "shutting down" in last
    assert done == "data: [DONE]"
