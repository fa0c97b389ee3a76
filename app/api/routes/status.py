"""`/status`: load, memory, latency and recent events as JSON for people."""

import time
from datetime import UTC, datetime
from typing import Annotated

import psutil
import torch
from fastapi import APIRouter, Query
from pydantic import BaseModel, Field

from app.api.dependencies import AppState, Ready, State
from app.api.journal import Entry
from app.api.latency import LatencyRow
from app.api.problems import documented
from app.api.routes.jobs import JobsUse, Share, jobs_use
from app.api.strict_route import StrictRoute
from app.engine.snapshot import EngineSnapshot
from app.service import Service

router = APIRouter(route_class=StrictRoute, tags=["health"])


class Load(BaseModel):
    """Now, and counts since start."""

    running: int = Field(description="sequences being continued")
    waiting: int = Field(description="requests in the queue")
    listening: int = Field(description="classifications that wait")
    preparing: int = Field(description="recordings being decoded")
    max_batch: int
    max_queue: int
    steps: int
    step_seconds: float
    generated_tokens: int
    finished: int
    failed: int
    rejected: int


class MemoryUse(BaseModel):
    """Bytes. ``device``: of the GPU as a whole, none on a CPU; ``process``: of this process in main memory."""

    device: Share | None
    process: int
    weights: int
    kv: int


class SharedStore(BaseModel):
    """The store of adapters that replicas share, as this one last saw it."""

    reachable: bool
    failure: str | None = Field(None, description="why not; adapters cannot be changed meanwhile")
    seconds_since: float = Field(description="since it was last reached")


class Status(BaseModel):
    """The state of the service."""

    time: datetime
    uptime_seconds: float
    model: str = Field(examples=["overtone-tiny"])
    device: str = Field(examples=["cpu"])
    device_name: str | None = Field(None, examples=["NVIDIA H100 80GB HBM3"])
    dtype: str = Field(examples=["float32"])
    weights: str = Field(
        description="format of the language model's matrices; bfloat16: not quantised, in `dtype`", examples=["int8"]
    )
    fingerprint: str = Field(description="of the base weights, at start")
    load: Load
    slots: Share = Field(description="of adapters")
    kv_tokens: Share = Field(description="of the KV cache")
    memory: MemoryUse
    shared: SharedStore | None = Field(None, description="null: adapters lie in this server's folder alone")
    jobs: dict[str, int] = Field(description="training jobs, by state")
    tenants: dict[str, JobsUse] = Field(description="training jobs of each tenant, beside its quotas")
    tenant_requests: dict[str, Share] = Field(description="requests of each tenant that run or wait, beside its quota")
    latency: list[LatencyRow] = Field(description="of the latest 256 requests of each adapter, milliseconds")
    events: list[Entry] = Field(description="events, oldest first; the latest 500 at most")


@router.get("/status", responses=documented(401, 422, 503))
def status(
    service: Ready,
    state: State,
    after: Annotated[int, Query(ge=0, description="leave out events up to this number")] = 0,
) -> Status:
    """Load, queue, slots, memory, latency by adapter, and the latest events: `curl localhost:8000/status`."""
    state.journal.look(service, state.jobs)
    engine, loaded = service.engine, service.loaded
    snapshot = engine.snapshot
    cuda = loaded.device.type == "cuda"
    return Status(
        time=datetime.now(UTC),
        uptime_seconds=round(time.monotonic() - state.begun, 1),
        model=loaded.spec.name,
        device=str(loaded.device),
        device_name=torch.cuda.get_device_name(loaded.device) if cuda else None,
        dtype=str(loaded.dtype).removeprefix("torch."),
        weights=loaded.spec.weights,
        fingerprint=service.fingerprint,
        load=_load(service, state, snapshot),
        slots=Share(used=len(snapshot.resident), total=snapshot.max_resident),
        kv_tokens=Share(used=snapshot.used_blocks * snapshot.block_size, total=snapshot.blocks * snapshot.block_size),
        memory=MemoryUse(
            device=_device_memory(loaded.device) if cuda else None,
            process=psutil.Process().memory_info().rss,
            weights=engine.memory.weight_bytes,
            kv=engine.memory.kv_bytes,
        ),
        shared=_shared(service),
        jobs=dict(state.jobs.counts()) if state.jobs else {},
        tenants=_tenants(state),
        tenant_requests={
            tenant: Share(used=used, total=state.settings.most_of_a_tenant())
            for tenant, used in state.meter.running_of_tenants().items()
        },
        latency=state.metrics.latencies.rows(),
        events=state.journal.after(after),
    )


def _tenants(state: AppState) -> dict[str, JobsUse]:
    """Tenants that have training jobs, and what these take."""
    return {} if state.jobs is None else {owner: jobs_use(state.jobs, owner) for owner in state.jobs.owners()}


def _shared(service: Service) -> SharedStore | None:
    store = service.shared
    if store is None:
        return None
    return SharedStore(reachable=store.failure is None, failure=store.failure, seconds_since=round(store.age, 1))


def _load(service: Service, state: AppState, snapshot: EngineSnapshot) -> Load:
    engine = service.engine
    stats = engine.stats
    return Load(
        running=snapshot.running,
        waiting=snapshot.waiting,
        listening=len(engine.pooling),
        preparing=state.preparing,
        max_batch=engine.limits.max_batch,
        max_queue=engine.limits.max_queue,
        steps=stats.steps,
        step_seconds=round(stats.step_seconds, 3),
        generated_tokens=stats.generated_tokens,
        finished=stats.finished,
        failed=stats.failed,
        rejected=stats.rejected,
    )


def _device_memory(device: torch.device) -> Share:
    free, total = torch.cuda.mem_get_info(device)
    return Share(used=total - free, total=total)
