"""Server-sent events: `event:` and one line of JSON, with a comment now and then while nothing happens."""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

from fastapi.responses import StreamingResponse

DONE = "data: [DONE]\n\n"  # the last of OpenAI's messages
KEEP_ALIVE_S = 15.0  # proxies close connections that are silent for longer


def event(kind: str, data: Any, number: int | None = None) -> str:
    """One event; JSON holds no raw line break, so it stays one line. ``number``: to go on after it later."""
    head = "" if number is None else f"id: {number}\n"
    return f"{head}event: {kind}\ndata: {json.dumps(data, ensure_ascii=False)}\n\n"


def message(data: Any) -> str:
    """One message without a kind, as OpenAI sends them."""
    return f"data: {json.dumps(data, ensure_ascii=False)}\n\n"


def event_stream(*sources: AsyncIterator[str], headers: Mapping[str, str] | None = None) -> StreamingResponse:
    """Send the events of all sources as they come. When the client leaves, they are cancelled."""
    # no buffering on the way: a token is worth nothing if a proxy holds it back
    own = {"Cache-Control": "no-store", "X-Accel-Buffering": "no", **(headers or {})}
    return StreamingResponse(_merged(sources), media_type="text/event-stream", headers=own)


async def _merged(sources: Sequence[AsyncIterator[str]]) -> AsyncIterator[str]:
    lines: asyncio.Queue[str | None] = asyncio.Queue()
    silent = True  # since the last look

    async def forward(source: AsyncIterator[str]) -> None:
        try:
            async for line in source:
                lines.put_nowait(line)
        finally:
            lines.put_nowait(None)

    async def keep_alive() -> None:  # one timer for all, where a timeout of each line would cost more than the line
        nonlocal silent
        while True:
            silent = True
            await asyncio.sleep(KEEP_ALIVE_S)
            if silent:
                lines.put_nowait(": waiting\n\n")

    forwards = [asyncio.create_task(forward(source)) for source in sources]
    tasks = [*forwards, asyncio.create_task(keep_alive())]
    running = len(forwards)
    try:
        while running:
            line = await lines.get()
            silent = False
            if line is None:
                running -= 1
            else:
                yield line
        for task in forwards:
            task.result()  # raises an unexpected error, so that it is logged
    finally:
        for task in tasks:
            task.cancel()
