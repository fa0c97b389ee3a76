"""One row of feedback: a question, the answer to it, and what its reader made of that."""

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, ValidationError

from app.errors import BadRequest

Verdict = Literal["right", "wrong", "draft"]
Split = Literal["train", "held_out"]
Unusable = Literal["excluded", "draft", "no_correction", "no_recording"]
PLACEHOLDER = "<audio>"  # of a recording in a turn's text, as in data sets
SPLITS: dict[Split, str] = {"train": "train", "held_out": "validation"}  # as data sets name them
Text = Annotated[str, Field(max_length=200_000)]


class AskedTurn(BaseModel):
    """One turn of the question; ``content`` holds a placeholder for each recording."""

    role: Literal["system", "user", "assistant"]
    content: Text


class AdapterPart(BaseModel):
    """One adapter of an answer. ``version``: null where it is not known."""

    name: str
    version: int | None = None
    weight: float = 1.0


class RecordingRef(BaseModel):
    """One recording of the question."""

    sha256: str = Field(description="of the file as it was sent")
    bytes: int
    kind: str = Field(description="the ending of its name", examples=["flac"])
    kept: bool = Field(description="false: without consent, or when the server no longer had it")


class FeedbackRow(BaseModel):
    """A question with its answer, the verdict on it, and the answer that it should have been."""

    id: str = Field(examples=["20261130-174500-1f2e3d4c5b"])
    request_id: str | None = Field(description="of the answer", examples=["req-5f0c6a1d"])
    time: datetime = Field(description="when the feedback first came; its retention counts from here")
    model: str = Field(examples=["overtone-tiny"])
    adapter: str = Field(description="a name, `base`, or a mix", examples=["base"])
    adapters: list[AdapterPart] = Field(description="with versions; empty for the base model")
    messages: list[AskedTurn] = Field(description="the question; `<audio>` stands for a recording")
    options: dict[str, Any] = Field(description="of the request: temperature, seed …")
    answer: Text
    verdict: Verdict = Field(description="`draft`: nobody has judged the answer yet")
    corrected: Text | None = Field(None, description="what the answer should have been")
    consent: bool = Field(description="whether the recordings may be kept")
    remembered: bool = Field(description="false: the question is what the client said, not what the server knew")
    excluded: bool = Field(False, description="left out of exports and training")
    split: Split | None = Field(None, description="the side that the row is on in training; null: by chance")
    recordings: list[RecordingRef]

    @property
    def response(self) -> str | None:
        """The right answer, as far as it is known."""
        return self.answer if self.verdict == "right" else self.corrected

    @property
    def why_unusable(self) -> Unusable | None:
        """The reason why nothing can be trained on this row; None where something can."""
        if self.excluded:
            return "excluded"
        if self.verdict == "draft":
            return "draft"
        if not (self.response or "").strip():
            return "no_correction"
        if not self.recordings or not all(recording.kept for recording in self.recordings):
            return "no_recording"
        return None

    def training_row(self, names: list[str]) -> dict[str, Any]:
        """A line of a data set. ``names``: the files of its recordings."""
        facts: dict[str, Any] = {"id": self.id, "audio": names[0] if len(names) == 1 else names}
        *before, last = self.messages
        system = [turn.content for turn in before if turn.role == "system"]
        lead = PLACEHOLDER * len(names)
        if len(before) == len(system) <= 1 and last.content.startswith(lead):
            facts |= {"system": system[0]} if system else {}
            facts |= {"prompt": last.content.removeprefix(lead), "response": self.response}
        else:
            turns = [turn.model_dump() for turn in self.messages]
            facts |= {"messages": [*turns, {"role": "assistant", "content": self.response}]}
        facts |= {"corrected": True} if self.verdict == "wrong" else {}
        return facts | ({"split": SPLITS[self.split]} if self.split else {})


def edited(row: FeedbackRow, **fields: Any) -> FeedbackRow:
    """The row with other fields: a corrected text means that the answer was wrong; ``split`` may be `auto`.

    Raises BadRequest for a value that no row may have.
    """
    if fields.get("corrected") is not None:
        if fields.get("verdict", "wrong") != "wrong":
            raise BadRequest(f"An answer that is {fields['verdict']} has no corrected text.")
        if PLACEHOLDER in fields["corrected"]:
            raise BadRequest(f"{PLACEHOLDER} stands for a recording in data sets and cannot be part of an answer.")
        fields["verdict"] = "wrong"
    elif fields.get("verdict") in ("right", "draft"):
        fields["corrected"] = None
    if fields.get("split") == "auto":
        fields["split"] = None
    try:
        return FeedbackRow.model_validate(row.model_dump() | fields)
    except ValidationError as error:
        names = ", ".join(str(one["loc"][0]) for one in error.errors() if one["loc"])
        raise BadRequest(f"A row cannot have this value: {names}.") from None
