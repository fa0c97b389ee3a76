"""An adapter on its way in: a multipart upload or a JSON `source`, brought into a temporary folder."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

from anyio import to_thread
from fastapi import Depends, Request
from fastapi import UploadFile as FormFile
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.datastructures import FormData, UploadFile

from app.access.caller import Caller
from app.api.body_kinds import media_type
from app.api.fields import KnownFields
from app.api.form_bodies import MULTIPART, read_form
from app.api.json_bodies import object_of, read_json
from app.api.problems import InvalidFields, invalid_fields
from app.api.state import Ready
from app.errors import BadRequest
from app.registry.archive import OWN, unpack
from app.registry.entries import ArchiveLimits
from app.registry.manifest import FILE
from app.registry.sources import fetch
from app.settings import Settings

FILES = (*OWN, FILE)
PAIRS = f"{OWN[0]} and {OWN[1]}, or {OWN[2]} and {OWN[3]}"


class NewAdapter(KnownFields):
    """`POST /adapters` as JSON."""

    name: str = Field(examples=["nato"])
    source: str = Field(
        min_length=1,
        description="a Hub id, an fsspec URL, or a folder under OVERTONE_ADAPTER_ROOTS",
        examples=["hf://my-org/qwen2-audio-nato"],
    )
    replace: bool = Field(False, description="make it the next version if the name is taken")


class _Fields(KnownFields):
    """The multipart form."""

    model_config = ConfigDict(extra="forbid", arbitrary_types_allowed=True)

    name: str
    file: list[FormFile] = Field([])
    replace: bool = False


class Uploaded(BaseModel):
    """What was asked for; the files lie in the folder by now."""

    name: str
    replace: bool


BODY: dict[str, Any] = {
    "required": True,
    "content": {
        "multipart/form-data": {
            "schema": {
                "type": "object",
                "required": ["name", "file"],
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
    bring(wanted.source, folder, settings)
    return Uploaded(name=wanted.name, replace=wanted.replace)


def bring(source: str, folder: Path, settings: Settings) -> None:
    """Fetch a source, if this server may, into ``folder``. Blocking."""
    fetch(
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
    names = [upload.filename or "" for upload in uploads]
    if twice := [name for name in FILES if names.count(name) > 1]:
        raise InvalidFields(f"file: {twice[0]} was sent {names.count(twice[0])} times; send it once.", ["file"])
    if uploads and set(names) <= set(FILES):
        for name, upload in zip(names, uploads, strict=True):
            with (folder / name).open("wb") as target:
                shutil.copyfileobj(upload.file, target)
    elif len(uploads) == 1:
        unpack(uploads[0].file, names[0], folder, _limits(settings))
    else:
        raise InvalidFields(f"file: send one .zip or .tar.gz, or the two files {PAIRS}.", ["file"])
    return Uploaded(name=wanted.name, replace=wanted.replace)


async def receive(request: Request, folder: Path, settings: Settings, caller: Caller) -> Uploaded:
    """What a request brings, by its content type."""
    kind, _ = media_type(request.headers)
    if kind == "application/json":
        caller.check_sources()
        body = await read_json(request, field="file") or {}
        return await to_thread.run_sync(receive_json, object_of(body), folder, settings)
    if kind != MULTIPART:
        raise BadRequest("Send multipart/form-data with `name` and `file`, or JSON with `name` and `source`.")
    form = await read_form(request, _Fields)  # parts beyond 1 MB lie on disk
    try:
        return await to_thread.run_sync(receive_form, form, folder, settings)
    finally:
        await form.close()


def _limits(settings: Settings) -> ArchiveLimits:
    return ArchiveLimits(max_bytes=settings.max_adapter_mb << 20)
