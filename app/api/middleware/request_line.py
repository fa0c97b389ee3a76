"""Method and path as clients write them: slashes too many, HEAD, OPTIONS; and headers that may stand once."""

import re
from collections import Counter

from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.api.problems import problem_response
from app.errors import BadRequest

ONCE = frozenset({"authorization", "x-api-key", "content-type", "content-encoding", "last-event-id", "host", "origin"})
_SLASHES = re.compile(r"/{2,}")


class _AnswerEnds(OSError):
    """Leaves a stream that would go on after a HEAD has been answered, as servers of ASGI 2.4 do."""


class RequestLine:
    """ASGI middleware. Outside of `Guard`, which decides by the path that the routes will see.

    `/v1//models/` is `/v1/models`; HEAD is answered by what answers GET, without its body.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        root: str = scope.get("root_path", "")
        scope["path"] = root + (_SLASHES.sub("/", scope["path"].removeprefix(root)).rstrip("/") or "/")
        counts = Counter(name.decode("latin-1").lower() for name, _ in scope["headers"])
        if twice := sorted(name for name in ONCE if counts[name] > 1):
            reasons = " ".join(
                f"The header {name.title()} was sent {counts[name]} times; send it once." for name in twice
            )
            await problem_response(BadRequest(reasons), scope)(scope, receive, send)
            return
        if scope["method"] == "HEAD":
            await self._head(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    async def _head(self, scope: Scope, receive: Receive, send: Send) -> None:
        as_get = dict(scope, method="GET")
        ended = counted = False
        version = scope.get("asgi", {}).get("spec_version", "2.0")
        told_by_errors = tuple(map(int, version.split("."))) >= (2, 4)

        async def send_headers(message: Message) -> None:
            nonlocal ended, counted
            if message["type"] == "http.response.start":
                scope.update(route=as_get.get("route"))  # for those outside who count and trace by it
                counted = any(name.lower() == b"content-length" for name, _ in message.get("headers", ()))
                await send(message)
            elif not ended and (not counted or not message.get("more_body", False)):
                # what has a length has an end, and may clean up there; anything else may go on for ever
                ended = True
                await send({"type": "http.response.body", "body": b"", "more_body": False})
            elif ended and told_by_errors:
                raise _AnswerEnds  # else a stream meets the disconnect that follows an answer's end

        try:
            await self._app(as_get, receive, send_headers)
        except* (_AnswerEnds, ClientDisconnect):
            pass
