"""The record of one training job, which is kept in its `job.json`."""

from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field

from app.registry.adapter_files.manifest import Method

State = Literal["queued", "running", "succeeded", "failed", "refused", "cancelled", "interrupted"]
STATES: tuple[State, ...] = ("queued", "running", "succeeded", "failed", "refused", "cancelled", "interrupted")
Promotion = Literal["always", "not_worse"]
Start = Literal["base", "current"]
Asked = Literal["cancelled", "interrupted"]
RESUMABLE: tuple[State, ...] = ("cancelled", "interrupted")
# Goes onto a command line: no leading dash, no blanks
Word = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]


class Options(BaseModel):
    """Options of a training run; the trainer chooses those that are None."""

    name: str
    method: Method = "lora"
    weights: Word | None = None
    preset: Word | None = None
    epochs: float | None = None
    allow: list[Word] = []
    learning_rate: float | None = None
    rank: int | None = None
    alpha: float | None = None
    lora_plus: float | None = None
    dora: bool | None = None
    eva: bool | None = None
    include_audio_tower: bool | None = None
    hidden: int | None = None
    batch_size: int | None = None
    max_steps: int | None = None
    patience: int | None = None
    validation_share: float | None = None
    prompt: str | None = None
    task: str | None = None
    seed: int | None = None
    promote: Promotion | None = None
    start: Start | None = None
    check: bool = Field(False, description="only judge the data and estimate a run")


class EventSummary(BaseModel):
    """A summary of the trainer's events so far; ``events`` counts them."""

    events: int = 0
    last: str | None = Field(None, description="kind of the last event", examples=["step"])
    gate: dict[str, Any] | None = Field(None, description="what the data gate found")
    estimate: dict[str, Any] | None = Field(None, description="of a check: what a run would take; none for heads")
    exam: dict[str, Any] | None = Field(
        None,
        description="answers to the held-out questions so far, of the base before training or the adapter after it",
        examples=[{"side": "after", "done": 16, "total": 60}],
    )
    started: dict[str, Any] | None = Field(None, description="steps to go and rows of each split")
    progress: dict[str, Any] | None = Field(None, description="the last step")
    evaluation: dict[str, Any] | None = Field(None, description="the last evaluation")
    metrics: dict[str, Any] | None = Field(None, description="before and after, once it is done")
    adapter: dict[str, Any] | None = Field(
        None,
        description="what was published; `promoted` is false where the version before it stays in service",
        examples=[{"name": "a", "version": 1}],
    )
    error: str | None = None
    code: str | None = Field(None, description="of the error; stable", examples=["dataset_rejected"])
    problems: list[str] = Field([], description="every reason for a refusal")


class Job(BaseModel):
    """One job. ``owner``: the tenant that asked for it. ``also``: a second data file, whose rows are added.

    ``pid``: of its process. ``asked``: the state for which the process was sent a signal. ``read_from``: bytes of the
    events file that belong to earlier runs.
    """

    id: str
    state: State = "queued"
    options: Options
    dataset: str
    also: str | None = None
    owner: str | None = None
    created: datetime
    queued: datetime
    started: datetime | None = None
    ended: datetime | None = None
    pid: int | None = None
    asked: Asked | None = None
    read_from: int = 0
    exit_code: int | None = None
    error: str | None = None
    told: EventSummary = EventSummary()

    @property
    def over(self) -> bool:
        """True once it has ended, in whatever way."""
        return self.state not in ("queued", "running")


def now() -> datetime:
    return datetime.now(UTC)
