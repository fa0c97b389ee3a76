"""`/training/jobs…`: train an adapter from a data set, watch it, cancel it. It is served once it is done."""

import asyncio
from collections.abc import AsyncIterator
from datetime import datetime
from typing import Annotated, Any

from anyio import to_thread
from fastapi import APIRouter, Header, Path, Query, Request
from fastapi.responses import PlainTextResponse, StreamingResponse
from pydantic import BaseModel, Field

from app.api.dependencies import AppState, JobRunner, State, feedback_of
from app.api.problems import documented
from app.api.schemas import jobs as job_forms
from app.api.schemas.responses import compact
from app.api.sse import event, event_stream
from app.api.strict_route import StrictRoute
from app.errors import NotFound
from app.jobs.events import Tail
from app.jobs.job import EventSummary, Job, Options
from app.jobs.job import State as JobState
from app.jobs.runner import Jobs
from app.jobs.store import tail
from app.jobs.tenant_view import TenantJobs

router = APIRouter(route_class=StrictRoute, tags=["training"])
Identity = Annotated[str, Path(description="id of the job", examples=["20261124-101500-1f2e3d4c"])]
FOLLOW_S = 0.2  # between two looks at a file that grows
EVENTS_EXAMPLE = """id: 7
event: step
data: {"step": 5, "loss": 1.84, "lr": 0.0001, "tokens_per_second": 5210, "eta_seconds": 48}

event: end
data: {"id": "20261124-101500-1f2e3d4c", "state": "succeeded", …}
"""
EVENTS: dict[int | str, dict[str, Any]] = {
    200: {"description": "Events", "content": {"text/event-stream": {"example": EVENTS_EXAMPLE}}}
}
LOG: dict[int | str, dict[str, Any]] = {
    200: {"description": "The log", "content": {"text/plain": {"example": "epoch 1 of 3\n"}}}
}


class JobView(BaseModel):
    """One job as it stands now."""

    id: str = Field(examples=["20261124-101500-1f2e3d4c"])
    name: str = Field(description="of the adapter", examples=["my-adapter"])
    state: JobState = Field(
        description="`refused`: the data or the options were; `interrupted`: the service was stopped, or the trainer"
    )
    position: int | None = Field(None, description="in the queue; 1 is next")
    stopping: bool = Field(False, description="it was asked to end and writes its checkpoint")
    options: Options
    dataset: str = Field(description="the data file; of an upload, relative to the job's folder")
    created: datetime
    started: datetime | None = Field(None, description="of the last run")
    ended: datetime | None = None
    exit_code: int | None = Field(None, description="of the trainer; negative: the signal that killed it")
    error: str | None = Field(None, description="what went wrong, in words")
    told: EventSummary = Field(description="the trainer's events so far")


class Share(BaseModel):
    """Use of a bounded resource."""

    used: int
    total: int


class JobsUse(BaseModel):
    """Resources that the training jobs of one tenant use, and their quotas."""

    waiting: Share
    kept: Share = Field(description="jobs on disk, those that are over included")
    bytes: Share = Field(description="of the jobs' folders")


class JobList(BaseModel):
    """All jobs, newest first."""

    jobs: list[JobView]
    quota: JobsUse | None = Field(None, description="of the key's tenant; null without one")


@router.post(
    "/training/jobs",
    status_code=202,
    responses=documented(400, 401, 403, 404, 408, 409, 413, 422, 503, 507),
    openapi_extra={"requestBody": job_forms.BODY},
)
async def create_job(request: Request, jobs: JobRunner, state: State) -> JobView:
    """Train an adapter. The job waits for its turn, then runs as a process of its own beside the service.

    ```sh
    curl localhost:8000/training/jobs -F name=my-adapter -F file=@data.zip
    curl localhost:8000/training/jobs -F name=my-adapter -F file=@data.zip -F epochs=3 -F learning_rate=1e-4
    curl localhost:8000/training/jobs --json '{"name": "my-adapter", "dataset": "/data/sets/dictation"}'
    ```

    `{"name": "my-adapter", "from_feedback": true}` trains on your corrected answers. Such a version is served only if
    its answers are not worse than the current version's; otherwise `POST /adapters/{name}/rollback` with its number
    makes it the current one.

    With `dry_run=true` the data is judged and a run estimated, and nothing is trained; `{"from_job": id}` then
    trains on the same data without sending it again.
    """
    threads, caller = state.file_limiters.of(jobs.caller), jobs.caller
    return view(
        jobs, await job_forms.receive(request, jobs, state.settings, threads, lambda: feedback_of(state, caller))
    )


@router.get("/training/jobs", responses=documented(401, 503))
def list_jobs(jobs: JobRunner) -> JobList:
    """All jobs, newest first: `curl localhost:8000/training/jobs`."""
    tenant = jobs.caller.tenant
    quota = None if tenant is None else jobs_use(jobs, tenant)
    return JobList(jobs=[view(jobs, job) for job in jobs.all()], quota=quota)


@router.get("/training/jobs/{id}", responses=documented(401, 404, 422, 503))
def get_job(id: Identity, jobs: JobRunner) -> JobView:
    """One job: state, place in the queue, progress, gate report, metrics, adapter.

    `curl localhost:8000/training/jobs/20261124-101500-1f2e3d4c`
    """
    return view(jobs, jobs.get(id))


@router.get(
    "/training/jobs/{id}/events",
    response_class=StreamingResponse,
    responses=EVENTS | documented(401, 404, 422, 503),
)
async def follow_job(
    id: Identity,
    jobs: JobRunner,
    state: State,
    last_event_id: Annotated[int, Header(ge=0, description="events up to this one are left out")] = 0,
) -> StreamingResponse:
    """All events of a job so far, then those to come, as server-sent events; `end` with the job is the last.

    `curl -N localhost:8000/training/jobs/20261124-101500-1f2e3d4c/events`. A client that comes back with
    `Last-Event-ID` misses nothing; a stream that ends without `end` means that the service is shutting down.
    """
    await asyncio.to_thread(jobs.get, id)
    return event_stream(_follow(jobs, state, id, last_event_id))


@router.get("/training/jobs/{id}/log", response_class=PlainTextResponse, responses=LOG | documented(401, 404, 422, 503))
def read_log(
    id: Identity,
    jobs: JobRunner,
    lines: Annotated[int, Query(alias="tail", ge=1, le=100_000, description="lines at the end")] = 1000,
) -> PlainTextResponse:
    """The trainer's output: `curl 'localhost:8000/training/jobs/20261124-101500-1f2e3d4c/log?tail=50'`."""
    jobs.get(id)
    return PlainTextResponse(tail(jobs.store.log(id), lines))


@router.post("/training/jobs/{id}/resume", status_code=202, responses=documented(401, 403, 404, 409, 422, 503, 507))
def resume_job(id: Identity, jobs: JobRunner) -> JobView:
    """Go on with a job that was cancelled or interrupted, from its last checkpoint.

    `curl -X POST localhost:8000/training/jobs/20261124-101500-1f2e3d4c/resume`
    """
    jobs.check_memory()
    return view(jobs, jobs.resume(id))


@router.delete("/training/jobs/{id}", responses=documented(401, 403, 404, 409, 422, 503, 507))
async def cancel_job(
    id: Identity,
    jobs: JobRunner,
    state: State,
    purge: Annotated[bool, Query(description="delete the folder of a job that is over")] = False,
) -> JobView:
    """Cancel a job: `curl -X DELETE localhost:8000/training/jobs/20261124-101500-1f2e3d4c`.

    A running one writes a checkpoint first; its state changes when its process has ended. With `?purge=true`
    the folder of a job that is over is deleted: data, log and checkpoints. The adapter stays.
    """

    def end() -> JobView:
        return view(jobs, jobs.purge(id) if purge else jobs.cancel(id))

    return await to_thread.run_sync(end, limiter=state.file_limiters.of(jobs.caller))


def jobs_use(jobs: Jobs | TenantJobs, tenant: str) -> JobsUse:
    """Use and quotas of a tenant's jobs."""
    use, quotas = jobs.use(tenant), jobs.quotas
    return JobsUse(
        waiting=Share(used=use.waiting, total=quotas.waiting),
        kept=Share(used=use.kept, total=quotas.kept),
        bytes=Share(used=use.disk, total=quotas.disk),
    )


def view(jobs: TenantJobs, job: Job) -> JobView:
    """The job as it stands now."""
    facts = {name: getattr(job, name) for name in JobView.model_fields if hasattr(job, name)}
    return JobView(
        **facts | {"dataset": job.dataset.removeprefix(f"{jobs.store.folder(job.id)}/")},
        name=job.options.name,
        position=jobs.position(job.id),
        stopping=job.state == "running" and job.asked is not None,
    )


async def _follow(jobs: TenantJobs, state: AppState, identity: str, after: int) -> AsyncIterator[str]:
    """Each event under its number in the file. Ends when the service drains, so as not to hold it up."""
    lines = Tail(jobs.store.events(identity))
    while not state.draining:
        try:
            job = await asyncio.to_thread(jobs.get, identity)  # before the file: nothing is written once it is over
        except NotFound:  # purged meanwhile
            return
        for line in await asyncio.to_thread(lines.read):
            if line.number > after:
                yield event(line.kind, line.data, line.number)
        if job.over:
            yield event("end", compact(view(jobs, job)))
            return
        await asyncio.sleep(FOLLOW_S)
