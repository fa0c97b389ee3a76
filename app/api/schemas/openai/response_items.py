"""Items of the `input` of `/v1/responses`, and the messages of a conversation that they stand for."""

from collections.abc import Sequence
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Discriminator, Field, Tag, field_validator, model_validator

from app.api.problems import InvalidFields
from app.api.schemas.openai.fields import Neutral, OpenAIFields
from app.api.schemas.openai.messages import ChatMessage, InputAudio, InputAudioPart, Part, TextPart
from app.api.schemas.openai.tools import NAME, AssistantCall, CalledFunction
from app.api.schemas.requests import Text

AudioPart = InputAudioPart
Status: Any = Field(None, description="accepted: what an item that is sent back has")


class InputText(OpenAIFields):
    """Words."""

    verbatim: ClassVar[frozenset[str]] = frozenset({"text"})

    type: Literal["input_text"]
    text: Text = ""

    def part(self) -> Part:
        return TextPart(type="text", text=self.text)


class OutputText(OpenAIFields):
    """Words of an earlier answer."""

    verbatim: ClassVar[frozenset[str]] = frozenset({"text"})

    type: Literal["output_text"]
    text: Text = ""
    annotations: Any = Status
    logprobs: Any = Status

    def part(self) -> Part:
        return TextPart(type="text", text=self.text)


class AudioItemPart(InputAudioPart):
    """A recording."""

    def part(self) -> Part:
        return InputAudioPart(type="input_audio", input_audio=self.input_audio)


class InputFile(OpenAIFields):
    """A recording as a file; its bytes say what it is."""

    unsupported: ClassVar[Neutral] = {"detail": ("auto", "low", "high")}

    type: Literal["input_file"]
    file_data: str | None = Field(None, description="base64, or a data URI")
    filename: str | None = Field(None, max_length=1000)
    file_id: str | None = None
    file_url: str | None = None

    @model_validator(mode="after")
    def _sent_here(self) -> "InputFile":
        if self.file_data is None or self.file_id is not None or self.file_url is not None:
            raise ValueError(
                "send the recording itself as file_data, in base64 or as data:audio/wav;base64,…; this server keeps "
                "no files and fetches no URL"
            )
        return self

    def part(self) -> Part:
        assert self.file_data is not None
        return InputAudioPart(type="input_audio", input_audio=InputAudio(data=self.file_data))


ItemPart = Annotated[InputText | OutputText | AudioItemPart | InputFile, Field(discriminator="type")]


class MessageItem(OpenAIFields):
    """A message: of the client, or an answer as it came."""

    verbatim: ClassVar[frozenset[str]] = frozenset({"content"})

    type: Literal["message"] = "message"
    role: Literal["user", "assistant", "system", "developer"]
    content: list[ItemPart] = Field([], max_length=200, description="words, or a list of parts")
    id: Any = Status
    status: Any = Status
    phase: Any = Status

    @field_validator("content", mode="before", json_schema_input_type=str | list[ItemPart] | None)
    @classmethod
    def _words(cls, value: Any) -> Any:
        return [{"type": "input_text", "text": value}] if isinstance(value, str) else value


class CallItem(OpenAIFields):
    """A call of a function in an earlier answer, as it came."""

    type: Literal["function_call"]
    call_id: str = Field(max_length=200)
    name: str = Field(pattern=NAME)
    arguments: Text = Field("{}", description="JSON text")
    id: Any = Status
    status: Any = Status

    def call(self) -> AssistantCall:
        return AssistantCall(id=self.call_id, function=CalledFunction(name=self.name, arguments=self.arguments))


class CallOutput(OpenAIFields):
    """The result of a call."""

    verbatim: ClassVar[frozenset[str]] = frozenset({"output"})

    type: Literal["function_call_output"]
    call_id: str = Field(max_length=200)
    output: list[InputText] = Field([], max_length=200, description="words, or a list of `input_text`")
    id: Any = Status
    status: Any = Status

    @field_validator("output", mode="before", json_schema_input_type=str | list[InputText] | None)
    @classmethod
    def _words(cls, value: Any) -> Any:
        return [{"type": "input_text", "text": value}] if isinstance(value, str) else value


def _kind(value: Any) -> str | None:
    """The type of an item; a message may leave it out."""
    kind = value.get("type", "message") if isinstance(value, dict) else getattr(value, "type", None)
    return kind if isinstance(kind, str) else None


Item = Annotated[
    Annotated[MessageItem, Tag("message")]
    | Annotated[CallItem, Tag("function_call")]
    | Annotated[CallOutput, Tag("function_call_output")],
    Discriminator(_kind),
]


def messages_of(items: Sequence[Item], instructions: str | None) -> list[ChatMessage]:
    """The conversation. Calls that follow each other or a message of the assistant belong to one turn."""
    messages = [ChatMessage(role="system", content=[TextPart(type="text", text=instructions)])] if instructions else []
    for item in items:
        if isinstance(item, CallItem):
            last = messages[-1] if messages and messages[-1].role == "assistant" else None
            calls = [*(last.tool_calls if last else []), item.call()]
            said = last.content if last else []
            messages[len(messages) - bool(last) :] = [ChatMessage(role="assistant", content=said, tool_calls=calls)]
        elif isinstance(item, CallOutput):
            parts = [part.part() for part in item.output]
            messages.append(ChatMessage(role="tool", content=parts, tool_call_id=item.call_id))
        else:
            messages.append(ChatMessage(role=item.role, content=[part.part() for part in item.content]))
    if not messages:
        raise InvalidFields("input is empty; there is nothing to answer.", ["input"])
    return messages
