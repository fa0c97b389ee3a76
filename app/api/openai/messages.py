"""OpenAI's messages to a conversation: words, `input_audio`, and `audio_url` as a data URI."""

import io
from collections.abc import Sequence
from typing import Annotated, Any, ClassVar, Literal

from fastapi import UploadFile
from pydantic import Field, field_validator

from app.api.forms import Text
from app.api.openai import base64_audio
from app.api.openai.fields import Neutral, OpenAIFields
from app.api.problems import InvalidFields
from app.model.features import Clip
from app.model.prompt import Message, Role

MAX_RECORDINGS = 32
FORMATS = (
    "wav", "mp3", "flac", "ogg", "opus", "m4a", "mp4", "webm", "wave", "mpeg", "mpga", "oga", "aac", "mov", "mkv",
    "mka", "aif", "aiff", "caf", "3gp", "amr", "wma",
)  # fmt: skip


class TextPart(OpenAIFields):
    """Words."""

    verbatim: ClassVar[frozenset[str]] = frozenset({"text"})

    type: Literal["text"]
    text: Text = ""


class InputAudio(OpenAIFields):
    """A recording; its bytes say what it is, whatever `format` says."""

    data: str = Field(description="base64, or a data URI")
    format: str | None = Field(None, description="wav, mp3, flac, ogg, opus, m4a, mp4, webm …")

    @field_validator("format")
    @classmethod
    def _known_format(cls, value: str | None) -> str | None:
        if value is None:
            return None
        name = value.strip().lower().removeprefix("audio/").removeprefix("video/").removeprefix("x-").lstrip(".")
        if name.partition(";")[0] not in FORMATS:
            raise ValueError(
                f"known are {', '.join(repr(one) for one in FORMATS[:8])}; or leave it out, the bytes decide"
            )
        return value


class InputAudioPart(OpenAIFields):
    """A recording as OpenAI takes it."""

    type: Literal["input_audio"]
    input_audio: InputAudio

    @property
    def encoded(self) -> str:
        return self.input_audio.data

    @field_validator("input_audio", mode="before")
    @classmethod
    def _bare(cls, value: Any) -> Any:
        return {"data": value} if isinstance(value, str) else value


class AudioUrl(OpenAIFields):
    """A recording inside a data URI."""

    url: str = Field(examples=["data:audio/wav;base64,UklGR…"])

    @field_validator("url")
    @classmethod
    def _data_uri(cls, value: str) -> str:
        """Only what the request brings itself is heard: this server fetches nothing."""
        if not value[:100].lstrip().lower().startswith("data:"):
            raise ValueError("send the recording itself, as data:audio/wav;base64,…; this server fetches no URL")
        return value


class AudioUrlPart(OpenAIFields):
    """A recording as vLLM takes it."""

    type: Literal["audio_url"]
    audio_url: AudioUrl

    @property
    def encoded(self) -> str:
        return self.audio_url.url

    @field_validator("audio_url", mode="before")
    @classmethod
    def _bare(cls, value: Any) -> Any:
        return {"url": value} if isinstance(value, str) else value


AudioPart = InputAudioPart | AudioUrlPart
Part = Annotated[TextPart | InputAudioPart | AudioUrlPart, Field(discriminator="type")]


class ChatMessage(OpenAIFields):
    """One turn; `developer` is another word for `system`. An answer may be sent back as it came."""

    verbatim: ClassVar[frozenset[str]] = frozenset({"content"})
    unsupported: ClassVar[Neutral] = {
        "refusal": (),
        "audio": (),
        "annotations": ([],),
        "tool_calls": ([],),
        "tool_call_id": (),
        "function_call": (),
        "reasoning": (),
        "reasoning_content": (),
    }

    role: Literal["system", "developer", "user", "assistant"]
    content: list[Part] = Field(
        [], max_length=200, description="words, or a list of parts; null is as good as no words"
    )
    name: Any = Field(None, description="accepted; the model does not see it")
    provider_specific_fields: Any = Field(
        None, description="accepted: what some clients add to an answer they send back"
    )

    @field_validator("content", mode="before")
    @classmethod
    def _words(cls, value: Any) -> Any:
        return [{"type": "text", "text": value}] if isinstance(value, str) else value

    @property
    def says_something(self) -> bool:
        """Whether there are words or a recording."""
        return any(not isinstance(part, TextPart) or part.text.strip() for part in self.content)

    @property
    def recordings(self) -> list[AudioPart]:
        return [part for part in self.content if not isinstance(part, TextPart)]


def check_turns(messages: Sequence[ChatMessage]) -> None:
    """Raises InvalidFields for a conversation that nobody can answer."""
    if messages[-1].role != "user":
        raise InvalidFields("messages: the last message must have the role 'user'.", ["messages"])
    if not messages[-1].says_something:
        place = f"messages.{len(messages) - 1}.content"
        raise InvalidFields(
            f"{place} is empty: the last message must say something, in words or by a recording.", [place]
        )
    spoken = [message.role for message in messages if message.recordings]
    if set(spoken) - {"user"}:
        raise InvalidFields("messages: only messages of the role 'user' may hold audio.", ["messages"])
    if sum(len(message.recordings) for message in messages) > MAX_RECORDINGS:
        raise InvalidFields(f"messages: {MAX_RECORDINGS} recordings at most.", ["messages"])


def recordings(messages: Sequence[ChatMessage]) -> list[UploadFile]:
    """The recordings in their order, decoded from base64. Raises InvalidFields. Blocking."""
    return [_recording(part, place) for place, message in enumerate(messages) for part in message.recordings]


def conversation(messages: Sequence[ChatMessage], clips: Sequence[list[Clip]]) -> list[Message]:
    """The messages for the model; ``clips`` holds those of each recording."""
    heard = iter(clips)
    turns = []
    for message in messages:
        parts: list[str | Clip] = []
        for part in message.content:
            parts.extend([part.text] if isinstance(part, TextPart) else next(heard))
        role: Role = "system" if message.role == "developer" else message.role
        turns.append(Message(role, tuple(parts)))
    return turns


def _recording(part: AudioPart, place: int) -> UploadFile:
    field = f"messages.{place}.content"
    try:
        data = base64_audio.decode(part.encoded)
    except base64_audio.NotBase64 as error:
        raise InvalidFields(f"{field}: the audio {error}.", [f"messages.{place}"]) from None
    return UploadFile(io.BytesIO(data), filename=f"message {place}")
