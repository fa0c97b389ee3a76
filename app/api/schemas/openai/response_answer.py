"""The answers of `/v1/responses`."""

from typing import Any, Literal

from pydantic import BaseModel, Field

from app.api.schemas.openai.details import WithDetails
from app.engine.request import Done

Status = Literal["in_progress", "completed", "incomplete", "failed"]


class OutputTextPart(BaseModel):
    """The words of an answer."""

    type: Literal["output_text"] = "output_text"
    text: str
    annotations: list[Any] = []
    logprobs: list[Any] = []


class OutputMessage(BaseModel):
    """An answer in words."""

    id: str = Field(examples=["msg_5f0c6a1d9d3e4c5b"])
    type: Literal["message"] = "message"
    status: Status
    role: Literal["assistant"] = "assistant"
    content: list[OutputTextPart]


class OutputCall(BaseModel):
    """A call of a function."""

    id: str = Field(examples=["fc_5f0c6a1d9d3e4c5b"])
    type: Literal["function_call"] = "function_call"
    status: Status
    call_id: str = Field(description="that the result names", examples=["call_5f0c6a1d9d3e4c5b"])
    name: str
    arguments: str = Field(description="JSON text that keeps to the function's parameters")


class InputTokens(BaseModel):
    """Part of the input's tokens."""

    audio_tokens: int
    cached_tokens: int = Field(0, description="prompts are not cached")
    cache_write_tokens: int = 0


class OutputTokens(BaseModel):
    """Part of the output's tokens."""

    reasoning_tokens: int = 0


class ResponseUsage(BaseModel):
    """Tokens; those of the audio are part of the input's."""

    input_tokens: int
    input_tokens_details: InputTokens
    output_tokens: int
    output_tokens_details: OutputTokens = OutputTokens()
    total_tokens: int


class IncompleteDetails(BaseModel):
    """Why an answer ends early."""

    reason: Literal["max_output_tokens"] = "max_output_tokens"


class ResponseFailure(BaseModel):
    """Why a stream ended without an answer."""

    code: str
    message: str


class ResponseObject(WithDetails):
    """One answer, and what was asked of it."""

    id: str = Field(examples=["resp_5f0c6a1d9d3e4c5b"])
    object: Literal["response"] = "response"
    created_at: int = Field(description="seconds since 1970")
    completed_at: int | None = None
    status: Status
    error: ResponseFailure | None = None
    incomplete_details: IncompleteDetails | None = None
    model: str
    output: list[OutputMessage | OutputCall]
    usage: ResponseUsage | None = None
    instructions: str | None = None
    max_output_tokens: int | None = None
    parallel_tool_calls: bool
    previous_response_id: None = None
    store: Literal[False] = False
    temperature: float
    text: dict[str, Any]
    tool_choice: Any
    tools: list[dict[str, Any]]
    top_p: float
    truncation: Literal["disabled"] = "disabled"
    metadata: dict[str, str] | None = None


def usage_of(done: Done) -> ResponseUsage:
    return ResponseUsage(
        input_tokens=done.prompt_tokens,
        input_tokens_details=InputTokens(audio_tokens=done.audio_tokens),
        output_tokens=done.completion_tokens,
        total_tokens=done.prompt_tokens + done.completion_tokens,
    )
