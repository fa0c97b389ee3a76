"""`/health`, `/ready`, `/metrics`: for orchestrators and monitoring."""

from typing import Any, Literal

from anyio import to_thread
from fastapi import APIRouter, Response
from prometheus_client import CONTENT_TYPE_LATEST
from pydantic import BaseModel, Field

from app import __version__
from app.access.caller import Caller
from app.api.dependencies import State, Who
from app.api.problems import documented
from app.api.strict_route import StrictRoute
from app.errors import DeviceLost
from app.service import Service

router = APIRouter(route_class=StrictRoute, tags=["health"])


class Health(BaseModel):
    """The process is alive."""

    status: Literal["ok"] = "ok"
    version: str = __version__


class Memory(BaseModel):
    """Bytes, and what the KV cache holds."""

    weight_bytes: int
    kv_bytes: int
    kv_tokens: int


class Readiness(BaseModel):
    """The model is loaded; requests are answered."""

    status: Literal["ready"] = "ready"
    model: str = Field(examples=["overtone-tiny"])
    device: str = Field(examples=["cpu"])
    dtype: str = Field(examples=["float32"])
    weights: str = Field(
        description="format of the language model's matrices; bfloat16: not quantised, in `dtype`", examples=["int8"]
    )
    memory: Memory
    max_context: int = Field(description="tokens of prompt and answer together")
    window_seconds: float = Field(description="audio that one clip holds", examples=[30.0])
    adapters: int | None = Field(description="that the caller sees; null without a key, where keys are needed")
    broken_adapters: int | None = Field(description="likewise")
    active: str | None = Field(description="adapter of the caller's requests that name none; null: the base model")
    resident: int | None = Field(description="adapters in slots; null but for callers that see every adapter")
    running: int | None = Field(description="sequences being continued; null likewise")
    waiting: int | None = Field(description="requests in the queue; null likewise")
    fingerprint: str = Field(description="of the base weights, at start", examples=["9c56cc51b374c3ba"])
    feedback: bool = Field(False, description="answers can be judged: POST /feedback")


@router.get("/health", responses=documented(503))
async def health(state: State) -> Health:
    """Is the process of any use? Answers while the model is still being loaded; needs no key.

    503 once the device has failed for good: only a new process helps.
    """
    if state.service is not None and state.service.engine.lost:
        raise DeviceLost
    return Health()


@router.get("/ready", responses=documented(503))
async def ready(state: State, caller: Who) -> Readiness:
    """Can requests be answered? 503 while the model is loaded and while the server drains; needs no key.

    Where keys are needed, a key shows how much is going on as well.
    """
    service = state.ready().seen_by(caller)
    found = await to_thread.run_sync(_readiness, service, caller, limiter=state.probe_limiter)
    return found.model_copy(update={"feedback": state.feedback is not None})


def _readiness(service: Service, caller: Caller) -> Readiness:
    known, whole = bool(caller.scopes), bool(caller.scopes) and caller.sees_all
    engine, loaded = service.engine, service.loaded
    memory, snapshot = engine.memory, engine.snapshot
    return Readiness(
        model=loaded.spec.name,
        device=str(loaded.device),
        dtype=str(loaded.dtype).removeprefix("torch."),
        weights=loaded.spec.weights,
        memory=Memory(
            weight_bytes=memory.weight_bytes, kv_bytes=memory.kv_bytes, kv_tokens=memory.blocks * memory.block_size
        ),
        max_context=engine.max_tokens_per_request,
        window_seconds=service.features.window_seconds,
        adapters=len(service.registry.names()) if known else None,
        broken_adapters=len(service.registry.broken()) if known else None,
        active=service.adapters.active if known else None,
        resident=len(snapshot.resident) if whole else None,
        running=snapshot.running if whole else None,
        waiting=snapshot.waiting if whole else None,
        fingerprint=service.fingerprint,
    )


METRICS: dict[int | str, dict[str, Any]] = {
    200: {"content": {"text/plain": {"example": 'overtone_requests_total{adapter="base",outcome="stop"} 3.0\n'}}}
}


@router.get("/metrics", response_class=Response, responses=METRICS | documented(401, 403))
async def metrics(state: State) -> Response:
    """Counters, gauges and histograms in Prometheus' text format. They name all adapters: for keys of no tenant."""
    text = await to_thread.run_sync(state.metrics.text, limiter=state.probe_limiter)
    return Response(text, media_type=CONTENT_TYPE_LATEST)
