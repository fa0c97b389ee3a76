"""Limits on request bodies while they stream: on their size, and on the wait for their next piece."""

import asyncio

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.api.problems import problem_response
from app.errors import OvertoneError, TooLarge, UploadStalled
from app.settings import Settings

# Routes that take more than a recording, and the setting that bounds their bodies
BOUND_BY = {("POST", "/adapters"): "max_adapter_mb", ("POST", "/training/jobs"): "max_dataset_mb"}
USUAL = "max_upload_mb"
STALL_S = 30.0  # between two pieces of a body


class _Refused(Exception):
    """Leaves the route from inside its `receive`."""


class BodyLimit:
    """ASGI middleware: 413 for a body beyond what its route may take, announced or counted; 408 where no more comes."""

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
            await problem_response(_too_large(setting, max_bytes), scope)(scope, receive, send)
            return
        seen = 0
        whole = started = False
        refusal: OvertoneError | None = None

        async def bounded_receive() -> Message:
            nonlocal seen, whole, refusal
            try:
                async with asyncio.timeout(None if whole or started else STALL_S):
                    message = await receive()
            except TimeoutError:
                refusal = UploadStalled(f"Nothing more of the request's body came for {STALL_S:g} s; send it again.")
                raise _Refused from None
            whole = not message.get("more_body", False)
            seen += len(message.get("body", b""))
            if seen > max_bytes:
                refusal = _too_large(setting, max_bytes)
                raise _Refused
            return message

        async def guarded_send(message: Message) -> None:
            # The framework takes _Refused for a broken body and answers 400: that answer is withheld.
            nonlocal started
            if refusal is None or started:
                started = True
                await send(message)

        try:
            await self._app(scope, bounded_receive, guarded_send)
        except Exception:
            if refusal is None or started:
                raise
        if refusal is not None and not started:
            await problem_response(refusal, scope)(scope, receive, send)


def _too_large(setting: str, max_bytes: int) -> TooLarge:
    hint = "; send less, or a compressed format such as flac or opus" if setting == USUAL else ""
    return TooLarge(
        f"The request body exceeds {max_bytes >> 20} MB{hint}. The operator can raise OVERTONE_{setting.upper()}."
    )
