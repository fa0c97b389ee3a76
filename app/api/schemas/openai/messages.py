"""OpenAI's messages to a conversation: words, `input_audio`, and `audio_url` as a data URI."""

import io
from collections.abc import Sequence
from typing import Annotated, Any, ClassVar, Literal

from fastapi import UploadFile
from pydantic import Field, field_validator

from app.api.bodies import base64_audio
from app.api.problems import InvalidFields
from app.api.schemas.openai.fields import Neutral, OpenAIFields
from app.api.schemas.openai.tools import AssistantCall
from app.api.schemas.requests import Text
from app.models.prompt import Message
from app.models.structured.tools import Tool, ToolCall
from app.service.generation import Conversation, Recording, flat

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
        """Only data URIs are accepted: this server fetches nothing."""
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
        "function_call": (),
        "reasoning": (),
        "reasoning_content": (),
    }

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: list[Part] = Field(
        [], max_length=200, description="words, or a list of parts; null is as good as no words"
    )
    tool_calls: list[AssistantCall] = Field([], max_length=200, description="calls in an answer that is sent back")
    tool_call_id: str | None = Field(None, max_length=200, description="the call whose result a `tool` message brings")
    name: Any = Field(None, description="accepted; the model does not see it")
    provider_specific_fields: Any = Field(
        None, description="accepted: what some clients add to an answer they send back"
    )

    @field_validator("content", mode="before", json_schema_input_type=str | list[Part] | None)
    @classmethod
    def _words(cls, value: Any) -> Any:
        return [{"type": "text", "text": value}] if isinstance(value, str) else value

    @property
    def says_something(self) -> bool:
        """True where there is text or a recording."""
        return any(not isinstance(part, TextPart) or part.text.strip() for part in self.content)

    @property
    def recordings(self) -> list[AudioPart]:
        return [part for part in self.content if not isinstance(part, TextPart)]


def check_turns(messages: Sequence[ChatMessage], field: str = "messages") -> None:
    """Raises InvalidFields for a conversation that cannot be answered. ``field``: the request's, for its words."""
    if messages[-1].role not in ("user", "tool"):
        raise InvalidFields(
            f"{field}: the last message must have the role 'user', or 'tool' with the result of a call.", [field]
        )
    if messages[-1].role == "user" and not messages[-1].says_something:
        place = f"messages.{len(messages) - 1}.content" if field == "messages" else field
        raise InvalidFields(
            f"{place} is empty: the last message must say something, in words or by a recording.", [place]
        )
    spoken = [message.role for message in messages if message.recordings]
    if set(spoken) - {"user"}:
        raise InvalidFields(f"{field}: only messages of the role 'user' may hold audio.", [field])
    if sum(len(message.recordings) for message in messages) > MAX_RECORDINGS:
        raise InvalidFields(f"{field}: {MAX_RECORDINGS} recordings at most.", [field])
    _check_calls(messages, field)


def _check_calls(messages: Sequence[ChatMessage], field: str) -> None:
    """Raises InvalidFields for calls of others than the assistant, and for results of no call before them."""
    known: set[str] = set()
    for message in messages:
        if message.tool_calls and message.role != "assistant":
            raise InvalidFields(f"{field}: only messages of the role 'assistant' have tool_calls.", [field])
        if (message.role == "tool") != (message.tool_call_id is not None):
            raise InvalidFields(
                f"{field}: a message of the role 'tool' names its call by tool_call_id, and no other does.", [field]
            )
        if message.tool_call_id is not None and message.tool_call_id not in known:
            raise InvalidFields(
                f"{field}: there is no call {message.tool_call_id[:80]!r} before its result; send the assistant's "
                "message with its tool_calls first.",
                [field],
            )
        known |= {call.id for call in message.tool_calls}


def recordings(messages: Sequence[ChatMessage], field: str = "messages") -> list[UploadFile]:
    """The recordings in their order, decoded from base64. Raises InvalidFields. Blocking."""
    named = [f"{field}.{place}" if field == "messages" else field for place in range(len(messages))]
    return [_recording(part, place) for place, one in zip(named, messages, strict=True) for part in one.recordings]


def conversation(
    messages: Sequence[ChatMessage], decoded: Sequence[Recording], tools: Sequence[Tool] = ()
) -> Conversation:
    """The conversation for the model; ``decoded``: the clips of each recording, in order."""
    rest = iter(decoded)
    called: dict[str, str] = {}  # names of functions by the ids of their calls
    turns: list[Message] = []
    for message in messages:
        called |= {call.id: call.function.name for call in message.tool_calls}
        turns.append(
            Message(
                "system" if message.role == "developer" else message.role,
                flat([part.text if isinstance(part, TextPart) else next(rest) for part in message.content]),
                tuple(ToolCall(call.function.name, call.function.arguments) for call in message.tool_calls),
                called.get(message.tool_call_id or "", ""),
            )
        )
    clips = tuple(clip for recording in decoded for clip in recording)
    return Conversation(tuple(turns), clips, tuple(tools))


def _recording(part: AudioPart, place: str) -> UploadFile:
    try:
        data = base64_audio.decode(part.encoded)
    except base64_audio.NotBase64 as error:
        where = f"{place}.content" if "." in place else place
        raise InvalidFields(f"{where}: the audio {error}.", [place]) from None
    return UploadFile(io.BytesIO(data), filename=f"message {place.rpartition('.')[2]}")
