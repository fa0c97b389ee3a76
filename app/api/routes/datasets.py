"""Data sets to train on, and the recordings in them that the gate objects to."""

import io
import os
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Annotated, Any

import soundfile
from anyio import to_thread
from fastapi import APIRouter, Query, Response
from pydantic import BaseModel, Field

from app.api.dependencies import JobRunner, Ready, State
from app.api.problems import documented
from app.api.routes.jobs import Identity
from app.api.strict_route import StrictRoute
from app.errors import NotFound
from app.jobs.dataset import known_datasets
from app.jobs.job import Job
from app.service import Service

router = APIRouter(route_class=StrictRoute, tags=["training"])
WAV: dict[int | str, dict[str, Any]] = {200: {"description": "The recording", "content": {"audio/wav": {}}}}


class DatasetView(BaseModel):
    """One that `POST /training/jobs` takes as `dataset`."""

    path: str = Field(examples=["/data/sets/dictation/data.jsonl"])
    bytes: int | None = Field(None, description="of the file that lists the recordings; none for a folder")


class DatasetList(BaseModel):
    """Data sets on the server."""

    datasets: list[DatasetView]


@router.get("/training/datasets", responses=documented(401, 503))
def list_datasets(state: State) -> DatasetList:
    """The data files under OVERTONE_DATASET_ROOTS: `curl localhost:8000/training/datasets`."""
    found = known_datasets(state.settings.dataset_roots)
    views = [DatasetView(path=str(one), bytes=one.stat().st_size if one.is_file() else None) for one in found]
    return DatasetList(datasets=views)


@router.get(
    "/training/jobs/{id}/recording",
    response_class=Response,
    responses=WAV | documented(401, 404, 413, 415, 422, 503),
)
async def read_recording(
    id: Identity,
    jobs: JobRunner,
    service: Ready,
    state: State,
    name: Annotated[str, Query(description="as `recordings` of the gate's report names it", examples=["clips/a.wav"])],
) -> Response:
    """A recording that the gate's report names, as wav, to listen to it.

    `curl -O 'localhost:8000/training/jobs/20261124-101500-1f2e3d4c/recording?name=clips/a.wav'`
    """
    job = await to_thread.run_sync(jobs.get, id)
    roots = state.settings.dataset_roots if job.owner is None else ()  # a tenant's rows may name their own alone
    file = await to_thread.run_sync(_reported, job, name, roots)
    async with state.decoding_turns.acquire(jobs.caller.tenant):
        data = await to_thread.run_sync(_file_as_wav, service, file, limiter=state.decoding_limiter)
    return Response(data, media_type="audio/wav")


def _reported(job: Job, name: str, roots: Sequence[Path]) -> Path:
    """The file of a recording in the report.

    Raises NotFound for any other, and for one that lies neither in the data set nor under the ``roots``.
    """
    report = (job.told.gate or {}).get("report", {})
    named = {one for finding in report.get("findings", []) for one in finding.get("recordings", [])}
    sources = [Path(source).resolve() for source in (job.dataset, job.also) if source]
    folders = [source if source.is_dir() else source.parent for source in sources]
    allowed = [*folders, *(root.resolve() for root in roots)]
    # in a folder of splits, names are relative to the split's own, which may lie some levels down
    for place in chain.from_iterable(map(_folders, folders)) if name in named else ():
        file = (place / name).resolve()
        if any(file.is_relative_to(root) for root in allowed) and file.is_file():
            return file
    raise NotFound(f"The gate's report of this job names no recording {name[:80]!r}.")


def _folders(top: Path) -> Iterator[Path]:
    yield top
    yield from (Path(place, name) for place, names, _ in os.walk(top) for name in sorted(names))


def _file_as_wav(service: Service, file: Path) -> bytes:
    return as_wav(service, file.read_bytes(), file.name)


def as_wav(service: Service, data: bytes, name: str) -> bytes:
    """A recording of any kind as wav. Raises AudioError or TooLarge."""
    recording = service.readers.samples.run(data, name)
    memory = io.BytesIO()
    soundfile.write(memory, recording.samples, recording.sample_rate, format="WAV", subtype="PCM_16")
    return memory.getvalue()
