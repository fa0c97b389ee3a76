"""Requests for a training job: a multipart upload, or JSON that names a data set on the server."""

from collections.abc import Callable
from typing import Annotated, Any, ClassVar, Literal

from anyio import CapacityLimiter, to_thread
from fastapi import Request
from fastapi import UploadFile as FormFile
from pydantic import Field, ValidationError, field_validator, model_validator
from starlette.datastructures import FormData

from app.api.bodies.form import MULTIPART, read_form
from app.api.bodies.json import object_of, read_json
from app.api.bodies.kinds import media_type
from app.api.problems import InvalidFields, invalid_fields
from app.api.schemas.fields import KnownFields, example
from app.errors import BadRequest
from app.feedback.tenant_view import TenantFeedback
from app.jobs.dataset import allowed_dataset, unpack_dataset
from app.jobs.job import Job, Options, Promotion, Start, Word
from app.jobs.tenant_view import TenantJobs
from app.registry.adapter_files.manifest import Method
from app.registry.archive_reader import ArchiveLimits
from app.registry.rules import check_name
from app.settings import Settings

MAX_FILES = 100_000  # in one data set
MAX_JSON = 64 << 10  # bytes of a body that names a data set


Line = Annotated[str, Field(max_length=2000, pattern=r"^[^\x00]*$")]  # goes onto a command line


class JobFields(KnownFields):
    """The trainer's options; where there is no default here, the trainer's own holds."""

    hints: ClassVar[dict[str, str]] = {
        "files": "file",
        "audio": "file",
        "data": "file",
        "adapter": "name",
        "lr": "learning_rate",
        "steps": "max_steps",
    }

    name: str = Field(description="of the adapter; a name in use gets its next version", examples=["my-adapter"])
    method: Method = Field("lora", description="lora, projector or head")
    weights: Literal["bfloat16", "float8", "int8", "int4"] | None = Field(
        None, description="format of the base's matrices in training; left out: as the service has them"
    )
    preset: Word | None = Field(None, description="LoRA: seed, balanced or strong")
    epochs: float | None = Field(None, gt=0, le=1000, allow_inf_nan=False, description="passes over the data")
    learning_rate: float | None = Field(None, gt=0, le=1, allow_inf_nan=False, description="the peak")
    rank: int | None = Field(None, ge=1, le=1024, description="of a LoRA adapter")
    alpha: float | None = Field(None, gt=0, allow_inf_nan=False, description="of a LoRA adapter")
    lora_plus: float | None = Field(None, ge=1, allow_inf_nan=False, description="LoRA+: rate of B over that of A")
    dora: bool | None = Field(None, description="weight-decomposed LoRA; served alone")
    eva: bool | None = Field(None, description="LoRA initialised from the activations")
    include_audio_tower: bool | None = Field(None, description="LoRA on the audio tower as well")
    hidden: int | None = Field(None, ge=0, le=65_536, description="head: width of its hidden layer; 0: linear")
    batch_size: int | None = Field(None, ge=1, le=4096, description="rows of one step")
    max_steps: int | None = Field(None, ge=1, description="steps at most")
    patience: int | None = Field(None, ge=1, description="evaluations without progress before it stops")
    validation_share: float | None = Field(None, gt=0, lt=1, description="of the recordings, held out")
    prompt: Line | None = Field(None, description="for rows that bring none")
    task: Line | None = Field(None, description="one line on what the adapter does, for its card")
    seed: int | None = Field(None, ge=0, lt=2**63)
    promote: Promotion | None = Field(
        None,
        description="not_worse: the new version of a name in use is compared with the current one on held-out and "
        "corrected rows, and kept without being served where it is worse; always: it is served. Default: not_worse for "
        "`from_feedback`, else always",
    )
    start: Start | None = Field(
        None,
        description="current: training goes on from the LoRA adapter that answers under the name now; "
        "base (the default): a new one",
    )
    dry_run: bool = Field(
        False, description="only judge the data and estimate a run, as `overtone train --dry-run` does"
    )
    check: bool = Field(False, description="the older name of dry_run")
    allow: list[Annotated[Word, Field()]] = Field(
        [], max_length=32, description="codes of the data gate's objections that are accepted; comma-separated in forms"
    )

    @field_validator("allow", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        """A list, as JSON has it, or words with commas between them, as a form does, which may repeat the field."""
        texts = [value] if isinstance(value, str) else value
        if isinstance(texts, list) and all(isinstance(text, str) for text in texts):
            return [part.strip() for text in texts for part in text.split(",") if part.strip()]
        return value

    def options(self) -> Options:
        """Raises BadRequest for a name that no adapter may have."""
        check_name(self.name)
        fields = {name: getattr(self, name) for name in Options.model_fields}
        return Options.model_validate(fields | {"check": self.dry_run or self.check})


class NewJob(JobFields):
    """`POST /training/jobs` as JSON."""

    model_config = example({"name": "my-adapter", "dataset": "/data/sets/dictation"})
    hints: ClassVar[dict[str, str]] = {
        **JobFields.hints,
        **dict.fromkeys(("file", "files", "audio", "data", "path"), "dataset"),
    }

    dataset: str | None = Field(
        None,
        min_length=1,
        description="a .jsonl, .json, .csv, .tsv or .parquet, or a folder, under OVERTONE_DATASET_ROOTS",
        examples=["/data/sets/dictation"],
    )
    from_job: str | None = Field(None, description="in place of `dataset`: the data set of another job")

    from_feedback: bool | Annotated[str, Field(max_length=2000)] | None = Field(
        None,
        description="in place of `dataset`, or beside it or `from_job`: your rows of feedback that can be trained on; "
        "true: all; or the name of the adapter (or `base`) that answered",
    )

    @model_validator(mode="after")
    def _one_source(self) -> "NewJob":
        others = sum(source is not None for source in (self.dataset, self.from_job))
        if others > 1 or not (others or self.from_feedback):
            words = "Name one of `dataset`, `from_job` and `from_feedback`; the last may stand beside another."
            raise InvalidFields(words, ["dataset", "from_job"])
        if self.from_feedback and self.method == "head":
            raise InvalidFields("Feedback corrects answers in words, and a head gives none.", ["method"])
        return self

    def options(self) -> Options:
        """See `JobFields.options`."""
        found = super().options()
        if self.from_feedback and found.promote is None:
            found.promote = "not_worse"
        return found


class JobForm(JobFields):
    """The multipart form."""

    model_config = example({"name": "my-adapter", "file": "data.zip"})

    file: FormFile = Field(
        description="a .zip or .tar.gz with recordings and a .jsonl, .json, .csv, .tsv or .parquet that lists them, "
        "transcripts beside them, or a folder a class; or a data file alone, for recordings under "
        "OVERTONE_DATASET_ROOTS (not with a tenant's key)"
    )


def _form_schema() -> dict[str, Any]:
    schema = JobForm.model_json_schema()
    schema["properties"]["allow"] = {"type": "string", "description": schema["properties"]["allow"]["description"]}
    return schema


BODY: dict[str, Any] = {
    "required": True,
    "content": {
        "multipart/form-data": {"schema": _form_schema()},
        "application/json": {"schema": NewJob.model_json_schema()},
    },
}


async def receive(
    request: Request,
    jobs: TenantJobs,
    settings: Settings,
    threads: CapacityLimiter,
    feedback: Callable[[], TenantFeedback],
) -> Job:
    """Queue what a request asks for, by its content type.

    ``threads``: for the work on its files. ``feedback``: the caller's; raises FeedbackOff.
    """
    kind, _ = media_type(request.headers)
    if kind == "application/json":
        body = object_of(await read_json(request, field="file", most_bytes=MAX_JSON) or {})
        if body.get("dataset") or not (body.get("from_feedback") or body.get("from_job")):
            jobs.caller.check_sources()
        return await to_thread.run_sync(_from_json, body, jobs, settings, feedback, limiter=threads)
    if kind != MULTIPART:
        raise BadRequest("Send multipart/form-data with `name` and `file`, or JSON with `name` and `dataset`.")
    form = await read_form(request, JobForm)  # parts beyond 1 MB lie on disk
    try:
        return await to_thread.run_sync(_from_form, form, jobs, settings, limiter=threads)
    finally:
        await form.close()


def _from_json(
    body: dict[str, Any], jobs: TenantJobs, settings: Settings, feedback: Callable[[], TenantFeedback]
) -> Job:
    try:
        wanted = NewJob.model_validate(body)
    except ValidationError as error:
        raise invalid_fields(error) from None
    options = wanted.options()
    source = jobs.get(wanted.from_job) if wanted.from_job is not None else None
    named = wanted.dataset or (source.dataset if source else "")
    of, own = wanted.from_feedback, feedback() if wanted.from_feedback else None
    # beside another data set, one row is enough
    rows = own.usable(None if of is True else str(of), 1 if named else 2) if own else []
    jobs.check_quota()
    jobs.check_memory()
    with jobs.store.draft() as identity:
        if own and not named:
            return jobs.submit(identity, options, str(own.write_folder(rows, jobs.store.data(identity))))
        shared = jobs.store.link_data(source, identity) if source else None
        data = shared or str(allowed_dataset(named, settings.dataset_roots))
        also = str(own.write_folder(rows, jobs.store.feedback(identity))) if own else None
        return jobs.submit(identity, options, data, also)


def _from_form(form: FormData, jobs: TenantJobs, settings: Settings) -> Job:
    lists = JobForm.lists()
    values = {name: form.getlist(name) if name in lists else form[name] for name in form}
    try:
        wanted = JobForm.model_validate(values)
    except ValidationError as error:
        raise invalid_fields(error) from None
    options = wanted.options()
    jobs.check_quota()
    jobs.check_memory()
    most = settings.max_dataset_mb << 20
    room = jobs.bytes_left(most)
    setting = "OVERTONE_MAX_DATASET_MB" if room == most else "what is left of OVERTONE_TENANT_JOBS_GB"
    limits = ArchiveLimits(room, MAX_FILES, setting)
    with jobs.store.draft() as identity:
        data = unpack_dataset(wanted.file.file, wanted.file.filename or "", jobs.store.data(identity), limits)
        return jobs.submit(identity, options, str(data))
