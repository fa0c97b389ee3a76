"""The multipart forms of `/generate` and `/compare`: fields, ranges, and what they mean together."""

from collections.abc import Sequence
from typing import Annotated, ClassVar, Literal

from fastapi import UploadFile
from pydantic import Field, PrivateAttr, TypeAdapter, ValidationError, field_validator, model_validator

from app.api.audio_input import DecodedAudio
from app.api.bodies.json import parse_json
from app.api.problems import InvalidFields
from app.api.schemas.fields import KnownFields, example
from app.api.schemas.sampling import seed_or_random
from app.engine.request import LoRAWeight
from app.engine.sampling_params import SamplingParams
from app.errors import MalformedBody
from app.models.prompt import Role
from app.service import GenerationInput
from app.service.generation import Conversation, Recording, default_prompt

Text = Annotated[str, Field(max_length=200_000)]


class TextPart(KnownFields):
    """Words of a turn."""

    verbatim: ClassVar[frozenset[str]] = frozenset({"text"})

    type: Literal["text"]
    text: Text = ""


class AudioPart(KnownFields):
    """An uploaded recording, by its place among the `audio` files (0 is the first)."""

    type: Literal["audio"]
    index: int = Field(ge=0)


class Turn(KnownFields):
    """One message of a conversation; one that says nothing is empty."""

    verbatim: ClassVar[frozenset[str]] = frozenset({"content"})

    role: Role
    content: Text | list[Annotated[TextPart | AudioPart, Field(discriminator="type")]] = Field("", union_mode="smart")

    def parts(self, recordings: Sequence[Recording]) -> list[str | Recording]:
        """The content with each recording's clips in the place of its index."""
        if isinstance(self.content, str):
            return [self.content]
        return [recordings[part.index] if isinstance(part, AudioPart) else part.text for part in self.content]

    @property
    def says_something(self) -> bool:
        """True when there is text or a recording."""
        if isinstance(self.content, str):
            return bool(self.content.strip())
        return any(isinstance(part, AudioPart) or part.text.strip() for part in self.content)


_TURNS: TypeAdapter[list[Turn]] = TypeAdapter(Annotated[list[Turn], Field(min_length=1, max_length=200)])


class AskForm(KnownFields):
    """The fields that `/generate` and `/compare` share."""

    hints: ClassVar[dict[str, str]] = {
        "audios": "audio",
        "file": "audio",
        "files": "audio",
        "max_tokens": "max_new_tokens",
    }
    verbatim: ClassVar[frozenset[str]] = frozenset({"stop"})  # a line break is a common one

    audio: list[UploadFile] = Field([], max_length=32, description="recordings, in order; none for text only")
    prompt: Text | None = Field(
        None,
        description="what to do with the audio; default: the adapter's own prompt, or to transcribe",
        examples=["Transcribe the audio."],
    )
    system: Text | None = Field(None, description="system message; default: the model's own")
    messages: Text | None = Field(
        None,
        description="several turns instead of `prompt` and `system`: a JSON list of "
        '`{"role": "user", "content": "words" or [{"type": "audio", "index": 0}, {"type": "text", "text": "words"}]}`',
    )
    max_new_tokens: int = Field(256, ge=1, description="tokens of the answer at most")
    temperature: float = Field(0.0, ge=0, le=5, allow_inf_nan=False, description="0 is greedy")
    top_p: float = Field(1.0, gt=0, le=1, allow_inf_nan=False, description="with a temperature: nucleus; 1 is off")
    top_k: int = Field(0, ge=0, le=1_000_000, description="with a temperature: the k likeliest; 0 is off")
    repetition_penalty: float = Field(1.0, ge=0.1, le=10, allow_inf_nan=False, description="above 1: less repetition")
    seed: int | None = Field(None, ge=0, lt=2**63, description="default: random, reported in the answer")
    stop: list[str] = Field([], max_length=8, description="repeatable; the answer ends before any of these")
    n: int = Field(1, description="only 1")
    stream: bool = Field(False, description="answer as server-sent events")

    _turns: list[Turn] | None = PrivateAttr(None)  # `messages`, once they are checked

    @field_validator("stop")
    @classmethod
    def _short_stops(cls, value: list[str]) -> list[str]:
        if any(not 1 <= len(stop) <= 200 for stop in value):
            raise ValueError("each stop string has 1 to 200 characters")
        return value

    @field_validator("n")
    @classmethod
    def _only_one(cls, value: int) -> int:
        if value != 1:
            raise ValueError("n must be 1; send the request several times with different seeds for several answers")
        return value

    @model_validator(mode="after")
    def _asks_something(self) -> "AskForm":
        if self.messages is not None and (self.prompt is not None or self.system is not None):
            raise InvalidFields("Send either messages, or prompt and system, not both.", ["messages"])
        if self.messages is None and self.prompt is None and not self.audio:
            raise InvalidFields("Send audio, a prompt, or both: there is nothing to answer.", ["audio", "prompt"])
        self._turns = None if self.messages is None else _turns_of(self.messages, len(self.audio))
        return self

    def sampling(self) -> SamplingParams:
        """The sampling parameters; the seed is drawn where the request has none."""
        return SamplingParams(
            self.max_new_tokens,
            self.temperature,
            self.top_p,
            self.top_k,
            self.repetition_penalty,
            seed_or_random(self.seed),
            tuple(self.stop),
        )

    def generation_input(
        self, audio: DecodedAudio, adapters: tuple[LoRAWeight, ...], sampling: SamplingParams | None = None
    ) -> GenerationInput:
        """The input for these adapters. ``sampling``: where several inputs share one seed."""
        return GenerationInput(
            self._conversation(audio.clips, adapters),
            adapters,
            sampling or self.sampling(),
            audio_seconds=audio.seconds,
            decoding_seconds=audio.decoding_seconds,
        )

    def _conversation(self, recordings: Sequence[Recording], adapters: Sequence[LoRAWeight]) -> Conversation:
        if self._turns is None:
            return Conversation.single_turn(recordings, self.prompt or default_prompt(adapters), self.system)
        return Conversation.of((turn.role, turn.parts(recordings)) for turn in self._turns)


class GenerateForm(AskForm):
    """`POST /generate`."""

    model_config = example({"audio": ["clip.wav"], "prompt": "Transcribe the audio.", "adapter": "base"})

    adapter: str | None = Field(
        None,
        max_length=2000,
        description="a name, `base`, or a mix `a:0.7,b:0.3`; default: the selected adapter",
        examples=["base"],
    )


class CompareForm(AskForm):
    """`POST /compare`."""

    model_config = example({"audio": ["clip.wav"], "prompt": "Transcribe the audio.", "adapters": ["base"]})

    hints: ClassVar[dict[str, str]] = AskForm.hints | {"adapter": "adapters"}

    adapters: list[str] = Field(
        min_length=1,
        max_length=64,
        description="names, repeated or separated by commas; `base` is the base model, `a:0.7+b:0.3` a mix",
        examples=[["base", "nato"]],
    )

    @field_validator("adapters")
    @classmethod
    def _split(cls, value: list[str]) -> list[str]:
        names = [name.strip() for entry in value for name in entry.split(",") if name.strip()]
        if not names:
            raise ValueError("it is empty; name 1 to 64 adapters")
        if not 1 <= len(names) <= 64:
            raise ValueError("name 1 to 64 adapters")
        # inside the service a mix is written with commas, which separate the answers here
        return [name.replace("+", ",") for name in names]


def _turns_of(messages: str, recordings: int) -> list[Turn]:
    """`messages` as turns that refer to so many recordings. Raises InvalidFields."""
    try:
        turns = _TURNS.validate_python(parse_json(messages))
    except MalformedBody as error:
        reason = str(error).replace("The body", "the text", 1)
        raise InvalidFields(f"messages: {reason}", ["messages"]) from None
    except ValidationError as error:
        first = error.errors()[0]
        path = ".".join(map(str, first["loc"])) or "the JSON"
        raise InvalidFields(f"messages: {path}: {first['msg']}.", ["messages"]) from None
    if turns[-1].role != "user":
        raise InvalidFields("messages: the last message must have the role 'user'.", ["messages"])
    if not turns[-1].says_something:
        raise InvalidFields("messages: the last message is empty; there is nothing to answer.", ["messages"])
    used = {p.index for t in turns if not isinstance(t.content, str) for p in t.content if isinstance(p, AudioPart)}
    if used != set(range(recordings)):
        raise InvalidFields(
            f"messages refer to the recordings {sorted(used)}, but {recordings} were sent: "
            "use each index from 0 once at least, and no other.",
            ["messages", "audio"],
        )
    return turns
