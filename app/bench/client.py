"""A client's view of a server: one question through HTTP, streamed, and how it ended."""

import json
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import httpx

NO_LIMIT = httpx.Limits(max_connections=None, max_keepalive_connections=None, keepalive_expiry=2.0)


@dataclass(frozen=True)
class Reply:
    """How a question ended.

    ``kind``: the last event, `done` or `error`; empty where HTTP itself refused, or the stream broke off.
    ``body``: what that event tells, or the problem. ``said``: the text of all tokens. ``seconds``: until the end.
    """

    status: int
    kind: str
    body: Mapping[str, Any]
    said: str
    seconds: float


def percentile(values: Iterable[float], share: float) -> float:
    """The value that ``share`` of them do not exceed; 0 of none."""
    ordered = sorted(values)
    return ordered[int(share * (len(ordered) - 1))] if ordered else 0.0


async def ask(http: httpx.AsyncClient, fields: Mapping[str, str], recording: bytes, request_id: str = "") -> Reply:
    """Stream one answer of `/generate`. Raises httpx.TransportError where the connection fails."""
    begun = time.perf_counter()
    kind, body, said = "", {}, []
    headers = {"X-Request-Id": request_id} if request_id else {}
    async with http.stream(
        "POST", "/generate", data={**fields, "stream": "true"}, files={"audio": recording}, headers=headers
    ) as answer:
        if answer.is_error:
            body = json.loads(await answer.aread())
        else:
            async for line in answer.aiter_lines():
                if line.startswith("event: "):
                    kind = line.removeprefix("event: ")
                elif line.startswith("data: "):
                    body = json.loads(line.removeprefix("data: "))
                    said.append(body["text"] if kind == "token" else "")
    ended = kind if kind != "token" else ""
    return Reply(answer.status_code, ended, body, "".join(said), time.perf_counter() - begun)
