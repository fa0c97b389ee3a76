"""`/health`, `/ready`, `/metrics`: for orchestrators and monitoring."""

from typing import Any, Literal

from fastapi import APIRouter, Response
from prometheus_client import CONTENT_TYPE_LATEST
from pydantic import BaseModel, Field

from app import __version__
from app.api.problems import documented
from app.api.state import State
from app.errors import DeviceLost

router = APIRouter(tags=["health"])


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
    memory: Memory
    max_context: int = Field(description="tokens of prompt and answer together")
    window_seconds: float = Field(description="audio that one clip holds", examples=[30.0])
    adapters: int
    broken_adapters: int
    active: str | None = Field(description="adapter of requests that name none; null: the base model")
    resident: int = Field(description="adapters in slots")
    running: int = Field(description="sequences being continued")
    waiting: int = Field(description="requests in the queue")
    fingerprint: str = Field(description="of the base weights, at start", examples=["9c56cc51b374c3ba"])


@router.get("/health", responses=documented(503))
async def health(state: State) -> Health:
    """Is the process of any use? Answers while the model is still being loaded; needs no key.

    503 once the device has failed for good: only a new process helps.
    """
    if state.service is not None and state.service.engine.lost:
        raise DeviceLost
    return Health()


@router.get("/ready", responses=documented(503))
def ready(state: State) -> Readiness:
    """Can requests be answered? 503 while the model is loaded and while the server drains; needs no key."""
    service = state.ready()  # the same for everybody: counts, and the selection that is everybody's
    engine, loaded = service.engine, service.loaded
    memory = engine.memory
    return Readiness(
        model=loaded.spec.name,
        device=str(loaded.device),
        dtype=str(loaded.dtype).removeprefix("torch."),
        memory=Memory(
            weight_bytes=memory.weight_bytes, kv_bytes=memory.kv_bytes, kv_tokens=memory.pages * memory.page_size
        ),
        max_context=engine.room,
        window_seconds=service.features.window_seconds,
        adapters=len(service.registry.names()),
        broken_adapters=len(service.registry.broken()),
        active=service.active,
        resident=len(engine.residency.slots.slots),
        running=len(engine.scheduler.running),
        waiting=len(engine.scheduler.waiting),
        fingerprint=service.fingerprint,
    )


METRICS: dict[int | str, dict[str, Any]] = {
    200: {"content": {"text/plain": {"example": 'overtone_requests_total{adapter="base",outcome="stop"} 3.0\n'}}}
}


@router.get("/metrics", response_class=Response, responses=METRICS | documented(401, 403))
def metrics(state: State) -> Response:
    """Counters, gauges and histograms in Prometheus' text format. They name all adapters: for keys of no tenant."""
    return Response(state.metrics.text(), media_type=CONTENT_TYPE_LATEST)
