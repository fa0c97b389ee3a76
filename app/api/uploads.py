"""Uploads of adapters: a multipart form or a JSON `source`, brought into a temporary folder."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

from anyio import CapacityLimiter, to_thread
from fastapi import Depends, Request
from fastapi import UploadFile as FormFile
from pydantic import BaseModel, Field, ValidationError
from starlette.datastructures import FormData, UploadFile

from app.access.caller import Caller
from app.api.bodies.form import MULTIPART, read_form
from app.api.bodies.json import object_of, read_json
from app.api.bodies.kinds import media_type
from app.api.dependencies import Ready
from app.api.problems import InvalidFields, invalid_fields
from app.api.schemas.fields import KnownFields, example
from app.errors import AdapterRejected, BadRequest
from app.registry.adapter_files.file_names import CONFIGS, KEPT, OWN, PICKLE
from app.registry.adapter_files.report import missing_weights
from app.registry.adapter_files.weights import WEIGHTS
from app.registry.archive import unpack
from app.registry.archive_reader import ArchiveLimits
from app.registry.sources import fetch
from app.settings import Settings

MAX_JSON = 64 << 10  # bytes of a body that names a source
MAX_PARTS = 200  # files of a form: a trainer's folder may be dropped as it is
PAIRS = f"{OWN[0]} and {OWN[1]}, or {OWN[2]} and {OWN[3]}"


class NewAdapter(KnownFields):
    """`POST /adapters` as JSON."""

    model_config = example({"name": "nato", "source": "hf://my-org/nato-calls"})

    name: str = Field(examples=["nato"])
    source: str = Field(
        min_length=1,
        description="a Hub id, an fsspec URL, or a folder under OVERTONE_ADAPTER_ROOTS",
        examples=["hf://my-org/nato-calls"],
    )
    replace: bool = Field(False, description="make it the next version if the name is taken")


class _Fields(KnownFields):
    """The multipart form."""

    name: str
    file: list[FormFile] = Field([])
    replace: bool = False


class Uploaded(BaseModel):
    """An upload whose files lie in the folder. ``notes``: files that were left aside."""

    name: str
    replace: bool
    notes: list[str] = []


BODY: dict[str, Any] = {
    "required": True,
    "content": {
        "multipart/form-data": {
            "schema": {
                "type": "object",
                "required": ["name", "file"],
                "examples": [{"name": "nato", "file": ["nato.zip"]}],
                "properties": {
                    "name": {"type": "string", "examples": ["nato"]},
                    "file": {
                        "type": "array",
                        "items": {"type": "string", "format": "binary"},
                        "description": f"one .zip or .tar.gz, or {PAIRS}",
                    },
                    "replace": {"type": "boolean", "default": False},
                },
            }
        },
        "application/json": {"schema": NewAdapter.model_json_schema()},
    },
}


def _workspace(service: Ready) -> Iterator[Path]:
    """A folder that lives until the response has been sent."""
    with service.registry.workspace() as folder:
        yield folder


Workspace = Annotated[Path, Depends(_workspace)]


def receive_json(body: dict[str, Any], folder: Path, settings: Settings) -> Uploaded:
    """Fetch the named source into ``folder``. Blocking."""
    try:
        wanted = NewAdapter.model_validate(body)
    except ValidationError as error:
        raise invalid_fields(error) from None
    notes = bring(wanted.source, folder, settings)
    return Uploaded(name=wanted.name, replace=wanted.replace, notes=notes)


def bring(source: str, folder: Path, settings: Settings) -> list[str]:
    """Fetch a source, if this server may, into ``folder``; notes on what was left aside. Blocking."""
    return fetch(
        source,
        folder,
        roots=settings.adapter_roots,
        prefixes=settings.adapter_sources,
        limits=_limits(settings),
    )


def receive_form(form: FormData, folder: Path, settings: Settings) -> Uploaded:
    """Bring the uploaded files into ``folder``. Blocking."""
    uploads = [value for value in form.getlist("file") if isinstance(value, UploadFile)]
    try:
        wanted = _Fields.model_validate({key: value for key, value in form.items() if key != "file"})
    except ValidationError as error:
        raise invalid_fields(error) from None
    names = [(upload.filename or "").replace("\\", "/") for upload in uploads]
    plain = [name.rpartition("/")[2] for name in names]
    if not set(plain).isdisjoint(CONFIGS):
        notes = _take(dict(zip(names, uploads, strict=True)), names, folder)
    elif len(uploads) == 1 and plain[0] not in KEPT:
        notes = unpack(uploads[0].file, names[0], folder, _limits(settings))
    else:
        raise InvalidFields(f"file: send one .zip or .tar.gz, or the two files {PAIRS}.", ["file"])
    return Uploaded(name=wanted.name, replace=wanted.replace, notes=notes)


def _take(uploads: dict[str, UploadFile], names: list[str], folder: Path) -> list[str]:
    """Copy an adapter's own files out of a form, as `unpack` does out of an archive; its notes."""
    taken: dict[str, str] = {}
    others = {name.rpartition("/")[2] for name in names} - KEPT
    for name in names:
        plain = name.rpartition("/")[2]
        if plain in KEPT and plain in taken:
            raise InvalidFields(f"file: {plain} is there twice ({taken[plain][:80]}, {name[:80]}); send one.", ["file"])
        if plain in KEPT:
            taken[plain] = name
            with (folder / plain).open("wb") as target:
                shutil.copyfileobj(uploads[name].file, target)
    if CONFIGS[0] in taken and WEIGHTS not in taken:
        raise AdapterRejected(missing_weights(WEIGHTS, sorted(others)))
    return [f"{PICKLE} was left aside unread: {WEIGHTS} is the adapter"] if PICKLE in others else []


async def receive(
    request: Request, folder: Path, settings: Settings, caller: Caller, threads: CapacityLimiter
) -> Uploaded:
    """Bring the adapter of a request into ``folder``, by its content type. ``threads`` bounds the work on files."""
    kind, _ = media_type(request.headers)
    if kind == "application/json":
        caller.check_sources()
        body = await read_json(request, field="file", most_bytes=MAX_JSON) or {}
        return await to_thread.run_sync(receive_json, object_of(body), folder, settings, limiter=threads)
    if kind != MULTIPART:
        raise BadRequest("Send multipart/form-data with `name` and `file`, or JSON with `name` and `source`.")
    form = await read_form(request, _Fields, most_files=MAX_PARTS)  # parts beyond 1 MB lie on disk
    try:
        return await to_thread.run_sync(receive_form, form, folder, settings, limiter=threads)
    finally:
        await form.close()


def _limits(settings: Settings) -> ArchiveLimits:
    return ArchiveLimits(max_bytes=settings.max_adapter_mb << 20)
