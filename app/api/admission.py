"""Whether a question may come in at all, answered before its body is read."""

from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request, Response
from fastapi.routing import APIRoute

from app.api.state import AppState


class AskingRoute(APIRoute):
    """A route that asks the engine something: while the line is full it refuses from the headers alone.

    FastAPI reads and parses a body before it calls anything of ours, which is most of what a refusal would cost.
    The server drops the body that is still on its way, so the client gets to read its 429.
    """

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def admit(request: Request) -> Response:
            state: AppState = request.app.state.overtone
            if state.service is not None:  # else the route tells why not
                state.service.engine.refuse_if_full(state.preparing)
            return await handle(request)

        return admit
