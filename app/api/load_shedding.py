"""Refusal of requests while the queue is full, before their bodies are read."""

from fastapi import Request, Response

from app.api.dependencies import AppState
from app.api.strict_route import Handler, StrictRoute


class SheddingRoute(StrictRoute):
    """A route that uses the engine: while the queue is full it refuses requests by their headers alone.

    FastAPI reads and parses a body before it calls the route, which is most of the cost of a refusal. The server
    discards the rest of the body, so that the client can read the 429.
    """

    def get_route_handler(self) -> Handler:
        handle = super().get_route_handler()

        async def admit(request: Request) -> Response:
            state: AppState = request.app.state.overtone
            if state.service is not None:  # else the route reports the reason
                state.service.engine.refuse_if_full(state.preparing)
            return await handle(request)

        return admit
