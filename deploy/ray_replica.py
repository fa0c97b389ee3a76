"""One Overtone inside a Ray Serve replica: the whole app, called with ASGI messages."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import ray
from ray import serve
from ray.serve._private.common import RequestRoutingInfo
from ray.serve.context import _get_global_client
from starlette.types import Message, Scope

from app import logs
from app.main import create_app
from app.settings import Settings

ANNOUNCE_S = 0.1
STEP_S = 25.0  # longer than any step takes
Part = bytes | ray.ObjectRef  # of a request's body; a reference where it is long


class Replica:
    """Holds the base model. Ray routes to it by the adapters that it announces: those in slots or being asked."""

    async def __init__(self, changed: dict[str, Any]) -> None:
        """Returns when requests can be answered. ``changed``: settings that differ from the environment's."""
        context = serve.get_replica_context()
        settings = Settings(**changed)
        # a cache of its own for each replica of a machine, found again after a restart
        own = f"replica-{context.rank.local_rank if context.rank else 0}"
        settings = settings.model_copy(
            update={"adapters": Path(settings.adapters) / own, "jobs": Path(settings.jobs) / own}
        )
        logs.configure(settings.log_format)
        logs.hide_progress_bars()
        self._id = context.replica_id
        self._app = create_app(settings)
        self._state = self._app.state.overtone
        self._life = self._app.router.lifespan_context(self._app)
        await self._life.__aenter__()
        while self._state.service is None:
            self._check_loaded()
            await asyncio.sleep(0.05)
        self._asking: Counter[str] = Counter()
        self._announced: set[str] = set()
        self._announcing = asyncio.create_task(self._announce())

    async def __del__(self) -> None:
        """Ray calls it once running requests have ended."""
        if hasattr(self, "_announcing"):
            self._announcing.cancel()
            await self._life.__aexit__(None, None, None)

    async def check_health(self) -> None:
        """Raises where requests will never be answered again; Ray then starts another replica in its place."""
        self._check_loaded()
        if self._state.service is not None:  # the engine's thread takes this up between two steps
            done = asyncio.wrap_future(self._state.service.engine.call(lambda: None))
            await asyncio.wait_for(done, STEP_S)

    def _check_loaded(self) -> None:
        if self._state.failure is not None:
            raise RuntimeError("the model could not be loaded") from self._state.failure

    def base_names(self) -> list[str]:
        """The names of the base model, which are no adapter's."""
        return [self._state.ready().loaded.spec.name]

    async def handle(self, scope: Scope, parts: Sequence[Part], adapter: str) -> AsyncIterator[list[Message]]:
        """Answer a request: the app's messages, those at hand together. Leaving the iteration is a disconnect."""
        messages: asyncio.Queue[Message | None] = asyncio.Queue()
        body = iter(parts)
        left = len(parts)
        gone = asyncio.Event()

        async def receive() -> Message:
            nonlocal left
            part = next(body, None)
            if part is None:
                await gone.wait()
                return {"type": "http.disconnect"}
            left -= 1
            data = part if isinstance(part, bytes) else await part
            return {"type": "http.request", "body": data, "more_body": left > 0}

        async def send(message: Message) -> None:
            messages.put_nowait(message)

        async def run() -> None:
            try:
                await self._app(scope, receive, send)
            finally:
                messages.put_nowait(None)

        self._asking[adapter] += 1
        task = asyncio.create_task(run())
        try:
            ended = False
            while not ended:
                batch = [await messages.get()]
                while not messages.empty():
                    batch.append(messages.get_nowait())
                ended = batch[-1] is None
                if sent := [message for message in batch if message is not None]:
                    yield sent
            await task  # raises what ended the app
        finally:
            gone.set()
            if not task.done():
                task.cancel()
                with suppress(asyncio.CancelledError):
                    await task
            self._asking[adapter] -= 1

    async def _announce(self) -> None:
        """Report to Ray the adapters that are resident; the engine loads and evicts them, not `serve.multiplexed`."""
        while True:
            service = self._state.service
            resident = service.adapters.resident_names()
            known = set(service.registry.whole.names())
            asked = {name for name, count in list(self._asking.items()) if count > 0}
            self._asking = +self._asking
            current = resident | (asked & known)
            if current != self._announced:
                info = RequestRoutingInfo(replica_id=self._id, multiplexed_model_ids=sorted(current))
                await asyncio.to_thread(_get_global_client().record_request_routing_info, info)
                self._announced = current
            await asyncio.sleep(ANNOUNCE_S)
