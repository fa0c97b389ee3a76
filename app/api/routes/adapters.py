"""`/adapters…` and `/unload`: list, add, choose and remove adapters. Registry work runs on worker threads."""

from collections.abc import Iterator
from tempfile import TemporaryFile
from typing import IO, Annotated, Any, ClassVar, Literal

from anyio import to_thread
from fastapi import APIRouter, Body, Path, Request
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, Field, model_validator

from app.api import uploads
from app.api.dependencies import Ready, State
from app.api.metrics import AdapterUse, Metrics
from app.api.problems import InvalidFields, documented
from app.api.schemas.fields import KnownFields, example
from app.api.strict_route import StrictRoute
from app.api.uploads import Workspace
from app.registry.adapter import Adapter
from app.registry.adapter_files.manifest import Manifest
from app.registry.adapter_files.validate import Report
from app.registry.archive import pack
from app.service import Service
from app.service.adapters import Residency

router = APIRouter(route_class=StrictRoute, tags=["adapters"])
Name = Annotated[str, Path(description="name of the adapter", examples=["nato"])]
ZIP: dict[int | str, dict[str, Any]] = {200: {"content": {"application/zip": {}}, "description": "The adapter's files"}}


class AdapterView(BaseModel):
    """One adapter as it stands now."""

    name: str = Field(examples=["nato"])
    status: Literal["ready", "broken"] = Field(description="`broken`: in the folder, but it cannot be served")
    problems: list[str] = Field([], description="why it is broken")
    version: int | None = None
    versions: list[int] = Field([], description="all on disk, for rollback")
    active: bool = Field(False, description="answers requests that name no adapter")
    pinned: bool = Field(False, description="never evicted from its slot")
    residency: Residency = Field("disk", description="where its weights lie: slot, memory or disk")
    usage: AdapterUse = Field(default_factory=AdapterUse, description="since start")
    manifest: Manifest | None = None
    report: Report | None = Field(None, description="what validation found")


class RemovedAdapter(BaseModel):
    """A removed adapter whose files are kept: `POST /adapters/{name}/rollback` brings it back."""

    name: str
    versions: list[int] = Field(description="kept in the history, oldest first")


class AdapterList(BaseModel):
    """All adapters in the registry folder."""

    active: str | None = Field(description="adapter of requests that name none; null: the base model")
    adapters: list[AdapterView]
    removed: list[RemovedAdapter] = Field([], description="adapters that can be brought back by this key")


class PinBody(KnownFields):
    """`{"pinned": false}` unpins."""

    model_config = example({"pinned": True})

    pinned: bool = True


class RollbackBody(KnownFields):
    """`{"version": 2}`; without it, the version before, or the newest of a removed adapter."""

    model_config = example({"version": 2})

    version: int | None = None


class UnloadBody(KnownFields):
    """`{"adapter": "nato"}` unloads that one alone."""

    model_config = example({"adapter": "nato"})

    verbatim: ClassVar[frozenset[str]] = frozenset({"adapter"})
    adapter: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _names_one(cls, values: Any) -> Any:
        """An unset variable must not unload everything."""
        if isinstance(values, dict) and isinstance(named := values.get("adapter"), str) and not named.strip():
            raise InvalidFields("adapter is empty; name one, or leave the field out to unload all.", ["adapter"])
        return values


class Selected(BaseModel):
    """The adapter of requests that name none, from now on."""

    active: str | None


class Removed(BaseModel):
    """The adapter that is no longer served; its files stay in the registry's history."""

    removed: str
    active: str | None
    versions: list[int] = Field(description="kept in the history: `POST /adapters/{name}/rollback` brings them back")


class Unloaded(BaseModel):
    """The base model's weights, read again after unloading."""

    active: str | None
    freed: list[str] = Field(description="adapters (name@version) whose slots are free now", examples=[["nato@1"]])
    fingerprint: str = Field(description="of the base weights now")
    fingerprint_at_start: str
    unchanged: bool = Field(description="the two are equal: not one bit of the base has changed")


@router.get("/adapters", responses=documented(401, 503))
def list_adapters(service: Ready, state: State) -> AdapterList:
    """All adapters, broken ones with the reasons: `curl localhost:8000/adapters`."""
    views = [view(service, state.metrics, adapter) for adapter in service.registry.all()]
    broken = [_broken(service, name, problems) for name, problems in service.registry.broken().items()]
    removed = [RemovedAdapter(name=name, versions=kept) for name, kept in service.registry.removed().items()]
    listed = sorted(views + broken, key=lambda entry: entry.name)
    return AdapterList(active=service.adapters.active, adapters=listed, removed=removed)


@router.get("/adapters/{name}", responses=documented(401, 404, 422, 503))
def get_adapter(name: Name, service: Ready, state: State) -> AdapterView:
    """One adapter with manifest, validation report, versions and use: `curl localhost:8000/adapters/nato`."""
    problems = service.registry.broken().get(name)
    if problems is not None:
        return _broken(service, name, problems)
    return view(service, state.metrics, service.registry.get(name))


@router.post(
    "/adapters",
    status_code=201,
    responses=documented(400, 401, 403, 408, 409, 413, 422, 503, 507),
    openapi_extra={"requestBody": uploads.BODY},
)
async def add_adapter(request: Request, folder: Workspace, service: Ready, state: State) -> AdapterView:
    """Add an adapter. It is validated against the base model before it gets its name.

    ```sh
    curl localhost:8000/adapters -F name=nato -F file=@nato.zip
    curl localhost:8000/adapters -F name=nato -F file=@adapter_config.json -F file=@adapter_model.safetensors
    curl localhost:8000/adapters -F name=sounds -F file=@head.json -F file=@head.safetensors
    curl localhost:8000/adapters --json '{"name": "nato", "source": "hf://my-org/nato-calls"}'
    ```
    """
    threads = state.file_limiters.of(service.registry.caller)
    asked = await uploads.receive(request, folder, state.settings, service.registry.caller, threads)

    def publish() -> AdapterView:
        adapter = service.adapters.publish(folder, asked.name, replace=asked.replace, notes=asked.notes)
        return view(service, state.metrics, adapter)

    return await to_thread.run_sync(publish, limiter=threads)


@router.delete("/adapters/{name}", responses=documented(401, 403, 404, 409, 422, 503, 507))
def remove_adapter(name: Name, service: Ready) -> Removed:
    """Take an adapter out of service: `curl -X DELETE localhost:8000/adapters/nato`.

    Running requests end on what they began with. Its files stay in the history: `POST /adapters/nato/rollback`
    brings it back.
    """
    service.adapters.remove(name)
    kept = service.registry.removed().get(name, [])
    return Removed(removed=name, active=service.adapters.active, versions=kept)


@router.post("/adapters/{name}/select", responses=documented(401, 403, 404, 422, 503))
def select_adapter(name: Name, service: Ready) -> Selected:
    """Answer requests that name no adapter with this one: `curl -X POST localhost:8000/adapters/nato/select`.

    A mix (`a:0.7,b:0.3`) can be selected too; `base` selects none.
    """
    return Selected(active=service.adapters.select(name))


@router.post("/adapters/{name}/pin", responses=documented(400, 401, 403, 404, 409, 422, 503))
def pin_adapter(
    name: Name, service: Ready, state: State, body: Annotated[PinBody | None, Body()] = None
) -> AdapterView:
    """Keep an adapter in its slot, once it has one, or with `{"pinned": false}` no longer.

    `curl -X POST localhost:8000/adapters/nato/pin`
    """
    adapter = service.adapters.pin(name, (body or PinBody()).pinned)
    return view(service, state.metrics, adapter)


@router.post("/adapters/{name}/rollback", responses=documented(400, 401, 403, 404, 409, 422, 503, 507))
async def roll_back_adapter(
    name: Name, service: Ready, state: State, body: Annotated[RollbackBody | None, Body()] = None
) -> AdapterView:
    """Make an older version current again: `curl -X POST localhost:8000/adapters/nato/rollback`.

    A removed adapter comes back as the newest version that is kept of it.
    """

    def roll_back() -> AdapterView:
        adapter = service.adapters.roll_back(name, (body or RollbackBody()).version)
        return view(service, state.metrics, adapter)

    return await to_thread.run_sync(roll_back, limiter=state.file_limiters.of(service.registry.caller))


@router.get(
    "/adapters/{name}/download", response_class=StreamingResponse, responses=ZIP | documented(401, 403, 404, 422, 503)
)
async def download_adapter(name: Name, service: Ready, state: State) -> StreamingResponse:
    """The current version as a zip: `curl -OJ localhost:8000/adapters/nato/download`."""
    return await to_thread.run_sync(_packed, service, name, limiter=state.file_limiters.of(service.registry.caller))


def _packed(service: Service, name: str) -> StreamingResponse:
    service.registry.check_change(name)  # its weights are its owner's to give away
    adapter = service.registry.get(name)
    file = TemporaryFile()  # noqa: SIM115, `_blocks` closes it; it has no name, so nothing can stay behind
    pack(service.registry.intact(adapter), file)
    disposition = f'attachment; filename="{adapter.name}-{adapter.version}.zip"'
    headers = {"Content-Disposition": disposition, "Content-Length": str(file.tell())}
    return StreamingResponse(_blocks(file), media_type="application/zip", headers=headers)


@router.post("/unload", responses=documented(400, 401, 403, 404, 422, 503))
async def unload(state: State, service: Ready, body: Annotated[UnloadBody | None, Body()] = None) -> Unloaded:
    """Back to the base model: no adapter is active, the slots are free: `curl -X POST localhost:8000/unload`.

    Running requests end on what they began with; a slot in use is freed once it is no longer wanted.
    """
    threads = state.unload_limiters.of(service.registry.caller)
    return await to_thread.run_sync(_unload, service, (body or UnloadBody()).adapter, limiter=threads)


def _unload(service: Service, name: str | None) -> Unloaded:
    freed = service.adapters.unload(name)
    fingerprint = service.engine.fingerprint().result()
    return Unloaded(
        active=service.adapters.active,
        freed=freed,
        fingerprint=fingerprint,
        fingerprint_at_start=service.fingerprint,
        unchanged=fingerprint == service.fingerprint,
    )


def view(service: Service, metrics: Metrics, adapter: Adapter) -> AdapterView:
    """The adapter as it stands now."""
    return AdapterView(
        name=adapter.name,
        status="ready",
        version=adapter.version,
        versions=service.registry.versions(adapter.name),
        active=service.adapters.is_active(adapter.name),
        pinned=service.adapters.is_pinned(adapter.name),
        residency=service.adapters.residency(adapter),
        usage=metrics.usage(adapter),
        manifest=adapter.manifest,
        report=adapter.report,
    )


def _broken(service: Service, name: str, problems: list[str]) -> AdapterView:
    return AdapterView(name=name, status="broken", problems=problems, versions=service.registry.versions(name))


def _blocks(file: IO[bytes]) -> Iterator[bytes]:
    with file:
        file.seek(0)
        while block := file.read(1 << 20):
            yield block
