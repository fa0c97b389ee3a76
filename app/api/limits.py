"""Request bodies bounded while they stream, so that a huge one lands neither in memory nor on disk."""

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.api.problems import problem_response
from app.errors import TooLarge


class _Exceeded(Exception):
    """Leaves the route from inside its `receive`."""


class BodyLimit:
    """ASGI middleware: 413 for a body beyond ``max_bytes``, announced or counted."""

    def __init__(self, app: ASGIApp, max_bytes: int) -> None:
        self._app = app
        self._max_bytes = max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        announced = Headers(scope=scope).get("content-length", "")
        if announced.isdecimal() and int(announced) > self._max_bytes:
            await self._refuse(scope, receive, send)
            return
        seen = 0
        started = False

        async def counting_receive() -> Message:
            nonlocal seen
            message = await receive()
            seen += len(message.get("body", b""))
            if seen > self._max_bytes:
                raise _Exceeded
            return message

        async def guarded_send(message: Message) -> None:
            # The framework takes _Exceeded for a broken body and answers 400: that answer is withheld.
            nonlocal started
            if seen <= self._max_bytes or started:
                started = True
                await send(message)

        try:
            await self._app(scope, counting_receive, guarded_send)
        except Exception:
            if seen <= self._max_bytes or started:
                raise
        if seen > self._max_bytes and not started:
            await self._refuse(scope, receive, send)

    async def _refuse(self, scope: Scope, receive: Receive, send: Send) -> None:
        error = TooLarge(
            f"The request body exceeds {self._max_bytes >> 20} MB; send less, or a compressed format such as flac "
            "or opus. The operator can raise OVERTONE_MAX_UPLOAD_MB."
        )
        await problem_response(error, scope)(scope, receive, send)
