"""One line in the log for each answer, with who asked, how it ended and how long it took."""

import logging
import time
from urllib.parse import quote

from starlette.types import ASGIApp, Message, Receive, Scope, Send

log = logging.getLogger("overtone.access")
PROBES = frozenset({"/health", "/ready", "/metrics"})  # asked every few seconds: only at level DEBUG


class AccessLog:
    """ASGI middleware. Queries, headers and bodies are never logged: they may hold secrets."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begun = time.monotonic()
        status = 499  # the client went away before an answer began

        async def watching_send(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, watching_send)
        finally:
            took_ms = round(1e3 * (time.monotonic() - begun), 1)
            path = quote(scope["path"][:200])
            caller = scope.get("state", {}).get("caller")
            facts = {
                "method": scope["method"],
                "path": path,
                "status": status,
                "took_ms": took_ms,
                "key": caller.key if caller else None,
                "tenant": caller.tenant if caller else None,
            }
            level = logging.DEBUG if path in PROBES else logging.INFO
            log.log(level, "%s %s %d in %.1f ms", scope["method"], path, status, took_ms, extra=facts)
