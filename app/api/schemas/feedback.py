"""Feedback as clients send and read it."""

from typing import Annotated, Any, ClassVar, Literal

from fastapi import Request, UploadFile
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from app.api.bodies.form import MULTIPART, read_form
from app.api.bodies.json import object_of, read_json
from app.api.bodies.kinds import media_type
from app.api.problems import InvalidFields, invalid_fields
from app.api.schemas.fields import KnownFields, example
from app.feedback.row import PLACEHOLDER, FeedbackRow, Unusable, Verdict

MAX_JSON = 2 << 20  # bytes
Words = Annotated[str, Field(max_length=200_000)]


class RowChange(KnownFields):
    """`POST /feedback/{id}`: fields that are left out stay as they are."""

    model_config = example({"corrected": "go forward ten meters"})
    hints: ClassVar[dict[str, str]] = {"correction": "corrected", "text": "corrected", "rating": "verdict"}

    verdict: Verdict | None = Field(None, description="right, wrong or draft")
    corrected: Words | None = Field(None, description="what the answer should have been")
    excluded: bool | None = Field(None, description="true: leave the row out of exports and training")
    split: Literal["auto", "train", "held_out"] | None = Field(
        None, description="the side that the row is on in training; auto: by chance"
    )

    @field_validator("corrected")
    @classmethod
    def _no_mark(cls, value: str | None) -> str | None:
        if value and PLACEHOLDER in value:
            raise ValueError(f"{PLACEHOLDER} stands for a recording in data sets and cannot be part of an answer")
        return value

    @model_validator(mode="after")
    def _agree(self) -> "RowChange":
        if self.verdict == "right" and self.corrected:
            raise InvalidFields("An answer that is right needs no corrected text.", ["verdict", "corrected"])
        if self.verdict == "draft" and self.corrected:
            raise InvalidFields("An answer that was corrected is no draft; leave `verdict` out.", ["verdict"])
        return self


class FeedbackFields(RowChange):
    """`POST /feedback` as JSON."""

    hints: ClassVar[dict[str, str]] = RowChange.hints | {"id": "request_id", "file": "audio"}

    verdict: Verdict = Field(description="right or wrong; draft: the answer is kept to be judged later")
    request_id: str | None = Field(
        None, max_length=200, description="the answer's `id`, or its X-Request-Id", examples=["req-5f0c6a1d"]
    )
    consent: bool = Field(False, description="the recordings may be kept, to train on them")
    answer: Words | None = Field(None, description="as it was shown; needed where the server remembers it no more")
    prompt: Words | None = Field(None, description="likewise")
    adapter: str | None = Field(None, max_length=2000, description="likewise; name@version says the version too")

    @model_validator(mode="after")
    def _names_an_answer(self) -> "FeedbackFields":
        if self.request_id is None and self.answer is None:
            raise InvalidFields("Name the answer by its `request_id`, or send it as `answer`.", ["request_id"])
        return self


class FeedbackForm(FeedbackFields):
    """The same as a form, with the recordings where the server may have forgotten them."""

    model_config = ConfigDict(extra="forbid", arbitrary_types_allowed=True)

    audio: list[UploadFile] = Field([], max_length=32, description="the recordings of the question, in order")


BODY: dict[str, Any] = {
    "required": True,
    "content": {
        "application/json": {
            "schema": FeedbackFields.model_json_schema(),
            "example": {"request_id": "req-5f0c6a1d", "verdict": "wrong", "corrected": "go forward", "consent": True},
        },
        MULTIPART: {
            "schema": FeedbackForm.model_json_schema(),
            "example": {"answer": "go on", "verdict": "right", "prompt": "What is said?", "audio": []},
        },
    },
}


async def receive(request: Request) -> FeedbackForm:
    """The body, by its content type; whoever calls closes the uploads. Raises MalformedBody or InvalidFields."""
    kind, _ = media_type(request.headers)
    values: dict[str, Any]
    if kind == MULTIPART:
        form = await read_form(request, FeedbackForm)
        values = {name: form.getlist(name) if name in FeedbackForm.lists() else form[name] for name in form}
    else:
        values = object_of(await read_json(request, field="audio", most_bytes=MAX_JSON))
        FeedbackFields.refuse_unknown(values)
    try:
        return FeedbackForm.model_validate(values)
    except ValidationError as error:
        raise invalid_fields(error) from None


class RowView(FeedbackRow):
    """A row as it stands now."""

    unusable: Unusable | None = Field(None, description="why nothing can be trained on it; null where it can")


class RowList(BaseModel):
    """Rows, newest first."""

    rows: list[RowView]
    total: int = Field(description="rows that fit, those beyond `limit` included")
    usable: int = Field(description="of them, what can be trained on")
    used_bytes: int = Field(description="of the disk, of all your rows")
    most_bytes: int = Field(description="that they may take")
    days: float = Field(description="after which a row is deleted")


def view_of(row: FeedbackRow) -> RowView:
    return RowView(**dict(row), unusable=row.why_unusable)
