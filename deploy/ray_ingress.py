"""The door of a Ray Serve cluster: checks keys and sizes, and hands each request to a replica that suits it."""

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Mapping
from typing import Any

import ray
from ray.exceptions import RayActorError, RayError, TaskCancelledError
from ray.serve.exceptions import BackPressureError, RayServeException
from ray.serve.handle import DeploymentHandle
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.access.keyring import Keyring
from app.access.meter import Meter
from app.api import sse
from app.api.middleware.auth import Guard
from app.api.middleware.body_limit import BodyLimit
from app.api.middleware.cors import Cors, checked_origins
from app.api.middleware.request_ids import RequestIds
from app.api.open_requests import OpenRequests
from app.api.openai import errors as openai
from app.api.problems import problem_of, problem_response
from app.errors import Forbidden, NotReady, OvertoneError, QueueFull
from app.settings import Settings
from deploy.ray_routing import adapter_of

log = logging.getLogger(__name__)
INLINE = 1 << 20  # bytes of a body that travel with the call; longer ones go through Ray's object store
PART = 8 << 20
SPARE_S = 10.0  # a replica's own deadline comes first
JUDGED = (b"origin", b"sec-fetch-site")  # here, for the whole cluster; a replica would answer them once more
KEPT = ("type", "asgi", "http_version", "method", "scheme", "path", "raw_path", "query_string", "root_path")


class Ingress:
    """Needs no GPU and no model."""

    def __init__(self, replicas: DeploymentHandle, changed: dict[str, Any]) -> None:
        settings = Settings(**changed)
        self._keyring = Keyring(settings.api_keys, settings.admin_keys, settings.keys_file)
        self._watch_s = settings.watch_seconds
        relay: ASGIApp = Relay(replicas, settings)
        relay = BodyLimit(relay, settings)
        self._requests = OpenRequests()
        origins = checked_origins(settings.cors_origins, self._keyring.guarded_for_all)
        relay = Guard(relay, self._keyring, Meter(tenant_most=settings.tenant_requests), self._requests, origins)
        self._app = RequestIds(Cors(relay, origins))
        self._watching: asyncio.Task[None] | None = None

    async def __call__(self, request: Request) -> Response:
        if self._watching is None:
            self._watching = asyncio.create_task(self._watch())
        return _Through(self._app)

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(self._watch_s)
            self._requests.end(await asyncio.to_thread(self._keyring.refresh))


class _Through(Response):
    """Ray calls a response with ASGI's three: that is an app."""

    def __init__(self, app: ASGIApp) -> None:
        super().__init__()
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_without_id(message: Message) -> None:
            if message["type"] == "http.response.start":  # Ray's proxy puts it there itself
                del MutableHeaders(scope=message)["X-Request-Id"]
            await send(message)

        await self._app(scope, receive, send_without_id)


class Relay:
    """ASGI app: the answer of a replica, message by message."""

    def __init__(self, replicas: DeploymentHandle, settings: Settings) -> None:
        self._replicas = replicas
        self._patience_s = settings.request_seconds + SPARE_S
        self._base: frozenset[str] | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        started: Message | None = None
        whole = False
        try:
            path = scope["path"].removeprefix(scope.get("root_path", ""))
            if scope["method"] == "POST" and path.startswith("/training"):
                raise Forbidden(
                    "Training does not run on the replicas of a cluster; train beside it with the same "
                    "OVERTONE_SHARED_ADAPTERS: the adapter is served here as soon as it is published."
                )
            body = await _body(receive)
            adapter = await self._adapter(scope, body)
            async for message in self._answer(scope, body, adapter):
                if message["type"] == "http.response.start":
                    started = message
                whole = message["type"] == "http.response.body" and not message.get("more_body", False)
                await send(message)
        except (RayError, RayServeException, NotReady, QueueFull, Forbidden) as error:
            if isinstance(error, TaskCancelledError):
                raise asyncio.CancelledError from error
            refusal = _refusal_of(error)
            log.warning("%s %s: %s", scope["method"], scope["path"], type(error).__name__)
            if whole:  # lost after its last message: one more would break the connection, and the client's next request
                return
            if started is None:
                await problem_response(refusal, scope)(scope, receive, send)
            elif "text/event-stream" in Headers(raw=started["headers"]).get("content-type", ""):
                await send({"type": "http.response.body", "body": _event(refusal, scope), "more_body": False})
            else:
                raise  # an answer cut short: the connection breaks, so no client takes it for whole

    async def _answer(self, scope: Scope, body: bytes | list[bytes], adapter: str) -> AsyncIterator[Message]:
        replicas = self._replicas.options(stream=True, multiplexed_model_id=adapter)
        parts = [body] if isinstance(body, bytes) else await asyncio.gather(*map(_put, body))
        answer = replicas.handle.remote(_portable(scope), parts, adapter)
        whole = False
        try:
            while True:
                try:
                    async with asyncio.timeout(self._patience_s):
                        messages = await anext(answer)
                except StopAsyncIteration:
                    whole = True
                    return
                except TimeoutError:
                    raise NotReady("No replica has answered in time; try again in a moment.") from None
                for message in messages:
                    yield message
        finally:
            if not whole:
                answer.cancel()

    async def _adapter(self, scope: Scope, body: bytes | list[bytes]) -> str:
        name = adapter_of(scope, body if isinstance(body, bytes) else b"".join(body))
        if name and self._base is None:
            self._base = frozenset(await self._replicas.base_names.remote())
        return "" if self._base is not None and name in self._base else name


async def _body(receive: Receive) -> bytes | list[bytes]:
    """The whole body: in one where it is short, else in parts. A client that leaves meanwhile gets no answer."""
    parts, part, size = [], bytearray(), 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise asyncio.CancelledError
        part += message.get("body", b"")
        size += len(message.get("body", b""))
        more = message.get("more_body", False)
        if len(part) >= PART or not more:
            parts.append(bytes(part))
            part.clear()
        if not more:
            return parts[0] if size <= INLINE else parts


async def _put(part: bytes) -> ray.ObjectRef:
    return await asyncio.to_thread(ray.put, part)


def _portable(scope: Scope) -> dict[str, Any]:
    """The part of a scope that can be sent to a replica; the request's id stays the same there."""
    kept = {key: scope[key] for key in KEPT if key in scope}
    kept["headers"] = [(bytes(key), bytes(value)) for key, value in scope["headers"] if key not in JUDGED]
    for ends in ("client", "server"):
        kept[ends] = tuple(scope[ends]) if scope.get(ends) else None
    MutableHeaders(scope=kept)["X-Request-Id"] = scope["state"]["request_id"]
    return kept


def _refusal_of(error: Exception) -> OvertoneError:
    """The error for the client; after the death of a replica, that it may try again."""
    if isinstance(error, OvertoneError):
        return error
    if isinstance(error, BackPressureError):
        return QueueFull("Every replica is busy and the queue is full; try again in a moment.")
    if isinstance(error, RayActorError | RayServeException):
        return NotReady("The replica that answered this was lost; ask again.")
    return NotReady("The cluster could not answer this; ask again in a moment.")


def _event(error: OvertoneError, scope: Mapping[str, Any]) -> bytes:
    """The last event of a stream that cannot go on."""
    path = scope["path"].removeprefix(scope.get("root_path", ""))
    if openai.is_openai(path):
        return sse.message(openai.error_body(error)).encode()
    problem = problem_of(error, scope["state"]["request_id"]).model_dump(exclude_none=True)
    return sse.event("error", json.loads(json.dumps(problem))).encode()
