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
    """The end of a request.

    ``kind``: the last event, `done` or `error`; empty where HTTP itself refused, or the stream broke off.
    ``body``: the data of that event, or the problem. ``said``: the text of all tokens. ``seconds``: until the end.
    ``first``: seconds until the first token, 0 where none came.
    """

    status: int
    kind: str
    body: Mapping[str, Any]
    said: str
    seconds: float
    first: float = 0.0


def percentile(values: Iterable[float], share: float) -> float:
    """The value that ``share`` of them do not exceed; 0 of none."""
    ordered = sorted(values)
    return ordered[int(share * (len(ordered) - 1))] if ordered else 0.0


async def ask(
    http: httpx.AsyncClient, fields: Mapping[str, str], recording: bytes, request_id: str = "", key: str = ""
) -> Reply:
    """Stream one answer of `/generate`. Raises httpx.TransportError where the connection fails."""
    begun = time.perf_counter()
    kind, body, said, first = "", {}, [], 0.0
    headers = {name: value for name, value in (("X-Request-Id", request_id), ("X-API-Key", key)) if value}
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
                    first = first or (time.perf_counter() - begun if kind == "token" else 0.0)
    ended = kind if kind != "token" else ""
    return Reply(answer.status_code, ended, body, "".join(said), time.perf_counter() - begun, first)
