"""Server-sent events: `event:` and one line of JSON, with a comment now and then while nothing happens."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

from fastapi.responses import StreamingResponse

KEEP_ALIVE_S = 15.0  # proxies close connections that are silent for longer


def event(kind: str, data: Any) -> str:
    """One event; JSON holds no raw line break, so it stays one line."""
    return f"event: {kind}\ndata: {json.dumps(data, ensure_ascii=False)}\n\n"


def event_stream(events: AsyncIterator[str]) -> StreamingResponse:
    """Send events as they come. When the client leaves, the iteration is cancelled."""
    # no buffering on the way: a token is worth nothing if a proxy holds it back
    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    return StreamingResponse(_kept_alive(events), media_type="text/event-stream", headers=headers)


async def _kept_alive(events: AsyncIterator[str]) -> AsyncIterator[str]:
    waiting: asyncio.Future[str] | None = None
    try:
        while True:
            waiting = waiting or asyncio.ensure_future(anext(events))  # type: ignore[arg-type]
            done, _ = await asyncio.wait((waiting,), timeout=KEEP_ALIVE_S)
            if not done:
                yield ": waiting\n\n"
                continue
            try:
                yield waiting.result()
            except StopAsyncIteration:
                return
            waiting = None
    finally:
        if waiting is not None:
            waiting.cancel()
