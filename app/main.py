"""The HTTP service: `create_app` builds it without loading a model, `serve` runs it."""

import asyncio
import math
import os
import signal
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from ipaddress import ip_address
from types import FrameType

import uvicorn
from fastapi import Depends, FastAPI
from fastapi.security import APIKeyHeader, HTTPBearer
from starlette.middleware import Middleware

from app import __version__, logs
from app.api import disconnect, openapi_document, problems
from app.api.dependencies import AppState, stop
from app.api.metrics import CountResponses
from app.api.middleware.access_log import AccessLog
from app.api.middleware.allowed_hosts import AllowedHosts
from app.api.middleware.auth import Guard
from app.api.middleware.body_limit import BodyLimit
from app.api.middleware.cors import Cors, checked_origins
from app.api.middleware.request_ids import RequestIds
from app.api.middleware.request_line import RequestLine
from app.api.middleware.security_headers import SecurityHeaders
from app.api.middleware.traces import TraceRequests, Traces
from app.api.openai import chat, models, responses, transcriptions
from app.api.problems import Faults
from app.api.protocol import BoundedProtocol
from app.api.routes import adapters, classify, compare, datasets, feedback, generate, health, jobs, page, status
from app.errors import BadRequest, NotReady, OvertoneError
from app.listening import listening_sockets
from app.service.service import freeze_gc_heap
from app.settings import Settings

TITLE = "Overtone"
ERRORS_S = 3  # for sending errors to the requests that a shutdown ends
DESCRIPTION = """
One audio language model stays resident; named LoRA adapters are chosen per request.

1. `POST /generate` with a recording and a prompt; `adapter` names an adapter, a mix, or `base`.
   `POST /classify` gives probabilities instead of words, from an adapter that is a classification head.
2. `GET /adapters` lists them; `POST /adapters` adds one; a folder dropped into the registry appears by itself.
3. `POST /unload` goes back to the bare base model and proves it by a fingerprint.
4. `POST /training/jobs` trains an adapter from a data set; it is served as soon as it is done.
5. `/v1/…` speaks OpenAI's API: any of its clients works with this server as `base_url`.

Errors are `application/problem+json` (RFC 9457): match on `code`, read `detail` for what to do, and quote
`instance`, the request's id, which is also in the `X-Request-Id` header. Under `/v1` they have OpenAI's shape.
"""
TAGS = [
    {"name": "generate", "description": "Ask about audio."},
    {"name": "adapters", "description": "List, add, choose and remove adapters."},
    {"name": "feedback", "description": "Judge answers and correct them; train on that."},
    {"name": "training", "description": "Train adapters beside the service."},
    {"name": "openai", "description": "OpenAI's API, for clients that speak it already."},
    {"name": "health", "description": "For orchestrators and monitoring."},
]


def create_app(settings: Settings | None = None) -> FastAPI:
    """The app, without a model: that is loaded, and closed, by its lifespan."""
    settings = settings or Settings()
    state = AppState(settings)
    origins = checked_origins(settings.cors_origins, state.keyring.guarded_for_all)
    traces = Traces(settings.otel_endpoint) if settings.otel_endpoint else None

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        running = asyncio.create_task(state.run())
        yield
        state.draining = True
        await stop(running)
        await state.close()
        if traces:
            await asyncio.to_thread(traces.close)

    app = FastAPI(
        title=TITLE,
        version=__version__,
        summary="One resident audio language model, many LoRA adapters, chosen per request.",
        description=DESCRIPTION,
        openapi_tags=TAGS,
        lifespan=lifespan,
        separate_input_output_schemas=False,
        docs_url=None,
        redoc_url=None,
        generate_unique_id_function=openapi_document.operation_id,
        swagger_ui_oauth2_redirect_url=None,
        redirect_slashes=False,  # `RequestLine` takes them away
        # outermost first
        middleware=[
            Middleware(RequestIds),
            *([Middleware(TraceRequests, traces=traces)] if traces else []),
            Middleware(AccessLog),
            Middleware(SecurityHeaders),
            Middleware(Cors, origins=origins),
            Middleware(CountResponses, metrics=state.metrics),
            Middleware(Faults),
            Middleware(RequestLine),
            Middleware(AllowedHosts, allowed=settings.allowed_hosts, guarded=state.keyring.guarded_for_all),
            Middleware(Guard, keyring=state.keyring, meter=state.meter, requests=state.requests, origins=origins),
            Middleware(BodyLimit, settings=settings),
        ],
    )
    app.state.overtone = state
    problems.install(app)
    disconnect.install(app)
    # Checked in `Guard`, before a body is read; named here so that /docs offers to enter a key.
    keys = [Depends(HTTPBearer(auto_error=False)), Depends(APIKeyHeader(name="X-API-Key", auto_error=False))]
    limited = problems.documented(403, 429)  # any route may be beyond a key's scopes or limits
    app.include_router(page.router)
    app.mount("/web", page.WebFiles())
    app.include_router(health.router)
    guards = keys if state.keyring.guarded else []
    for module in (generate, compare, classify, adapters, jobs, datasets, feedback, status):
        app.include_router(module.router, dependencies=guards, responses=limited)
    for module in (models, chat, responses, transcriptions):  # these document their errors in OpenAI's shape
        app.include_router(module.router, dependencies=guards)
    openapi_document.install(app)
    return app


def serve(settings: Settings, sockets: list[socket.socket] | None = None) -> None:
    """Run until SIGTERM or SIGINT; running requests may end within `drain_seconds`.

    ``sockets``: those to listen on; none: `listening_sockets` of the settings, whose errors it raises. Raises NotReady
    when the model cannot be loaded, ModelRejected and its kin when that is explained, and BadRequest where keys are
    required and missing.
    """
    logs.configure(settings.log_format)
    logs.hide_progress_bars()
    app = create_app(settings)
    state: AppState = app.state.overtone
    if settings.require_keys and not state.keyring.guarded_for_all and not _loopback(settings.host):
        raise BadRequest(
            f"Anyone who reaches {settings.host} could use this server, for it has no keys. Set OVERTONE_KEYS_FILE "
            "(see `overtone keys add`) or OVERTONE_API_KEYS; or OVERTONE_REQUIRE_KEYS=false where the port is "
            "published on 127.0.0.1 alone, or something in front asks for keys."
        )
    config = uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        loop="uvloop",
        http=BoundedProtocol,
        ws="none",
        log_config=None,
        access_log=False,  # `AccessLog` has more
        timeout_graceful_shutdown=math.ceil(settings.drain_seconds) + ERRORS_S,
    )
    server = _Server(config, state)
    state.on_ready, state.on_failure = freeze_gc_heap, server.stop
    server.run(sockets or listening_sockets(settings.host, settings.port))
    if isinstance(state.failure, OvertoneError):
        raise state.failure
    if state.failure is not None:
        raise NotReady(f"The model {settings.model!r} could not be loaded: {state.failure}") from state.failure


def _loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class _Server(uvicorn.Server):
    """Drains on the first signal: running requests end, new ones get 503. A second SIGINT ends at once.

    uvicorn itself would raise the signal again once it has shut down, which hides a clean exit. It knows no
    clients either that stop reading: on Linux the kernel ends their connections after `request_seconds`.
    """

    def __init__(self, config: uvicorn.Config, state: AppState) -> None:
        super().__init__(config)
        self._state = state

    def stop(self) -> None:
        self._state.draining = self.should_exit = True

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if not hasattr(socket, "TCP_USER_TIMEOUT"):
            return
        for listening in [one for server in self.servers for one in server.sockets]:
            with socket.socket(fileno=os.dup(listening.fileno())) as same:  # connections inherit its options
                patience_ms = math.ceil(1e3 * self._state.settings.request_seconds)
                same.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, patience_ms)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        ending = asyncio.create_task(self._state.end_requests())
        await super().shutdown(sockets)
        await stop(ending)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self.force_exit = self.should_exit and sig == signal.SIGINT
        self.stop()
