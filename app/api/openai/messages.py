"""OpenAI's messages to a conversation: words, `input_audio`, and `audio_url` as a data URI."""

import base64
import binascii
import io
from collections.abc import Sequence
from typing import Annotated, Any, ClassVar, Literal

from fastapi import UploadFile
from pydantic import Field, field_validator

from app.api.forms import Text
from app.api.openai.fields import Neutral, OpenAIFields
from app.api.problems import InvalidFields
from app.model.features import Clip
from app.model.prompt import Message, Role

MAX_RECORDINGS = 32
BLOCK = 1 << 20  # characters of base64, whole groups of four


class TextPart(OpenAIFields):
    """Words."""

    type: Literal["text"]
    text: Text


class InputAudio(OpenAIFields):
    """A recording."""

    data: str = Field(description="base64")
    format: Literal["wav", "mp3", "flac", "ogg", "opus", "m4a", "mp4", "webm"]


class InputAudioPart(OpenAIFields):
    """A recording as OpenAI takes it."""

    type: Literal["input_audio"]
    input_audio: InputAudio

    @property
    def encoded(self) -> str:
        return self.input_audio.data


class AudioUrl(OpenAIFields):
    """A recording inside a data URI."""

    url: str = Field(examples=["data:audio/wav;base64,UklGR…"])

    @field_validator("url")
    @classmethod
    def _data_uri(cls, value: str) -> str:
        """Only what the request brings itself is heard: this server fetches nothing."""
        head, comma, _ = value[:200].partition(",")
        if not (comma and head.startswith("data:") and head.endswith(";base64")):
            raise ValueError("send the recording itself, as data:audio/wav;base64,…; this server fetches no URL")
        return value


class AudioUrlPart(OpenAIFields):
    """A recording as vLLM takes it."""

    type: Literal["audio_url"]
    audio_url: AudioUrl

    @property
    def encoded(self) -> str:
        return self.audio_url.url.partition(",")[2]


AudioPart = InputAudioPart | AudioUrlPart
Part = Annotated[TextPart | InputAudioPart | AudioUrlPart, Field(discriminator="type")]


class ChatMessage(OpenAIFields):
    """One turn; `developer` is another word for `system`. An answer may be sent back as it came."""

    unsupported: ClassVar[Neutral] = {
        "name": (),
        "refusal": (),
        "audio": (),
        "annotations": ([],),
        "tool_calls": ([],),
        "tool_call_id": (),
        "function_call": (),
    }

    role: Literal["system", "developer", "user", "assistant"]
    content: list[Part] = Field(max_length=200, description="words, or a list of parts")

    @field_validator("content", mode="before")
    @classmethod
    def _words(cls, value: Any) -> Any:
        return [{"type": "text", "text": value}] if isinstance(value, str) else value

    @property
    def recordings(self) -> list[AudioPart]:
        return [part for part in self.content if not isinstance(part, TextPart)]


def check_turns(messages: Sequence[ChatMessage]) -> None:
    """Raises InvalidFields for a conversation that nobody can answer."""
    if messages[-1].role != "user":
        raise InvalidFields("messages: the last message must have the role 'user'.", ["messages"])
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
    text = part.encoded
    try:
        # in blocks, so that other threads get a turn
        blocks = [base64.b64decode(text[start : start + BLOCK], validate=True) for start in range(0, len(text), BLOCK)]
    except (binascii.Error, ValueError):
        raise InvalidFields(f"messages.{place}.content: the audio is not base64.", [f"messages.{place}"]) from None
    return UploadFile(io.BytesIO(b"".join(blocks)), filename=f"message {place}")
