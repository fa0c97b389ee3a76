"""Request bodies bounded while they stream, so that a huge one lands neither in memory nor on disk."""

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.api.problems import problem_response
from app.errors import TooLarge
from app.settings import Settings

# Routes that take more than a recording, and the setting that bounds their bodies
BOUND_BY = {("POST", "/adapters"): "max_adapter_mb", ("POST", "/training/jobs"): "max_dataset_mb"}
USUAL = "max_upload_mb"


class _Exceeded(Exception):
    """Leaves the route from inside its `receive`."""


class BodyLimit:
    """ASGI middleware: 413 for a body beyond what the settings allow its route, announced or counted."""

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self._app = app
        self._settings = settings

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        setting = BOUND_BY.get((scope["method"], scope["path"].rstrip("/")), USUAL)
        max_bytes = getattr(self._settings, setting) << 20
        announced = Headers(scope=scope).get("content-length", "")
        if announced.isdecimal() and int(announced) > max_bytes:
            await _refuse(scope, receive, send, setting, max_bytes)
            return
        seen = 0
        started = False

        async def counting_receive() -> Message:
            nonlocal seen
            message = await receive()
            seen += len(message.get("body", b""))
            if seen > max_bytes:
                raise _Exceeded
            return message

        async def guarded_send(message: Message) -> None:
            # The framework takes _Exceeded for a broken body and answers 400: that answer is withheld.
            nonlocal started
            if seen <= max_bytes or started:
                started = True
                await send(message)

        try:
            await self._app(scope, counting_receive, guarded_send)
        except Exception:
            if seen <= max_bytes or started:
                raise
        if seen > max_bytes and not started:
            await _refuse(scope, receive, send, setting, max_bytes)


async def _refuse(scope: Scope, receive: Receive, send: Send, setting: str, max_bytes: int) -> None:
    hint = "; send less, or a compressed format such as flac or opus" if setting == USUAL else ""
    error = TooLarge(
        f"The request body exceeds {max_bytes >> 20} MB{hint}. The operator can raise OVERTONE_{setting.upper()}."
    )
    await problem_response(error, scope)(scope, receive, send)
