"""Whether a question may come in at all, answered before its body is read."""

from fastapi import Request, Response

from app.api.routes import Handler, StrictRoute
from app.api.state import AppState


class AskingRoute(StrictRoute):
    """A route that asks the engine something: while the line is full it refuses from the headers alone.

    A body is read and parsed before anything of the route is called, which is most of what a refusal would cost.
    The server drops the body that is still on its way, so the client gets to read its 429.
    """

    def get_route_handler(self) -> Handler:
        handle = super().get_route_handler()

        async def admit(request: Request) -> Response:
            state: AppState = request.app.state.overtone
            if state.service is not None:  # else the route tells why not
                state.service.engine.refuse_if_full(state.preparing)
            return await handle(request)

        return admit
