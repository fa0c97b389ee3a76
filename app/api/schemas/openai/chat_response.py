"""The answers of `/v1/chat/completions`."""

import secrets
import time
from collections.abc import Callable, Sequence
from typing import Any, Literal

from pydantic import BaseModel, Field, SerializerFunctionWrapHandler, model_serializer

from app.api.openai.call_reader import (
    ArgumentsDelta,
    CallReader,
    CallStart,
    Piece,
    TextDelta,
    TextReader,
    written,
)
from app.api.schemas.openai.details import OvertoneDetails, WithDetails
from app.engine.request import Done, Token

FinishReason = Literal["stop", "length", "tool_calls"]
BytesOf = Callable[[int], bytes]


class TokenLogprob(BaseModel):
    """A token that might have stood here."""

    token: str
    logprob: float
    bytes: list[int] = Field(description="of the token alone, which may be half a character")


class ChosenLogprob(TokenLogprob):
    """A token of the answer, by the model's own distribution before temperature, penalties and grammar."""

    top_logprobs: list[TokenLogprob]


class ChoiceLogprobs(BaseModel):
    """Of each token of the answer; the end of the turn is none."""

    content: list[ChosenLogprob]
    refusal: None = None


class PromptDetails(BaseModel):
    """Part of the prompt's tokens."""

    audio_tokens: int
    cached_tokens: int = Field(0, description="prompts are not cached")


class CompletionUsage(BaseModel):
    """Tokens; those of the audio are part of the prompt's."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptDetails


class CallFunction(BaseModel):
    """The function of a call; in a stream, the new part of it."""

    name: str | None = None
    arguments: str = Field(description="JSON text that keeps to the function's parameters")


class MadeCall(BaseModel):
    """A call that the answer makes."""

    id: str = Field(examples=["call_5f0c6a1d9d3e4c5b5f0c6a1d"])
    type: Literal["function"] = "function"
    function: CallFunction


class AnswerMessage(BaseModel):
    """The text of the answer, or its calls of tools."""

    role: Literal["assistant"] = "assistant"
    content: str | None
    refusal: None = None
    tool_calls: list[MadeCall] | None = Field(None, description="absent where there is none")

    @model_serializer(mode="wrap")
    def _without_no_calls(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        fields: dict[str, Any] = serialize(self)
        if fields["tool_calls"] is None:
            del fields["tool_calls"]
        return fields


class Choice(BaseModel):
    """The answer; there is always one."""

    index: int = 0
    message: AnswerMessage
    logprobs: ChoiceLogprobs | None = None
    finish_reason: FinishReason


class ChatCompletion(WithDetails):
    """One finished answer."""

    id: str = Field(examples=["chatcmpl-5f0c6a1d9d3e4c5b"])
    object: Literal["chat.completion"] = "chat.completion"
    created: int = Field(description="seconds since 1970")
    model: str
    choices: list[Choice]
    usage: CompletionUsage
    system_fingerprint: str = Field(description="names the base model's weights")


class CallDelta(BaseModel):
    """The new part of a call: its name at first, then its arguments."""

    index: int
    id: str | None = None
    type: Literal["function"] | None = None
    function: CallFunction


class Delta(BaseModel):
    """The new text of a chunk."""

    role: Literal["assistant"] | None = None
    content: str | None = None
    tool_calls: list[CallDelta] | None = None


class ChunkChoice(BaseModel):
    """A piece of the answer."""

    index: int = 0
    delta: Delta
    logprobs: ChoiceLogprobs | None = None
    finish_reason: FinishReason | None = None


class ChatCompletionChunk(WithDetails):
    """One event of a stream."""

    id: str
    object: Literal["chat.completion.chunk"] = "chat.completion.chunk"
    created: int
    model: str
    choices: list[ChunkChoice]
    usage: CompletionUsage | None = None
    system_fingerprint: str


class ChatAnswer:
    """Writes one answer in OpenAI's shape, whole or in chunks.

    ``model``: as the client named it. ``details``: of the whole answer, or of the first chunk. ``reader``: takes the
    answer apart into text and calls.
    """

    def __init__(
        self,
        model: str,
        fingerprint: str,
        bytes_of: BytesOf,
        details: OvertoneDetails | None = None,
        reader: CallReader | None = None,
    ) -> None:
        self._head: dict[str, Any] = {
            "id": f"chatcmpl-{secrets.token_hex(12)}",
            "created": int(time.time()),
            "model": model,
            "system_fingerprint": f"fp_{fingerprint[:16]}",
        }
        self._bytes_of = bytes_of
        self._details = details
        self._reader = reader or TextReader()
        self._calls = False  # true once the answer has made one

    @property
    def id(self) -> str:
        """The answer's id."""
        return str(self._head["id"])

    def whole(self, tokens: Sequence[Token], done: Done, logprobs: bool) -> ChatCompletion:
        """The answer in one piece."""
        text, calls = written(self._reader, done.text)
        made = [MadeCall(id=one.id, function=CallFunction(name=one.name, arguments=one.arguments)) for one in calls]
        choice = Choice(
            message=AnswerMessage(content=text, tool_calls=made or None),
            logprobs=self._logprobs(tokens) if logprobs else None,
            finish_reason=reason_of(done, called=bool(made)),
        )
        return ChatCompletion(**self._head, choices=[choice], usage=usage_of(done), overtone=self._details)

    def begin(self) -> ChatCompletionChunk:
        text = "" if isinstance(self._reader, TextReader) else None
        chunk = self._chunk(ChunkChoice(delta=Delta(role="assistant", content=text)))
        return chunk.model_copy(update={"overtone": self._details})

    def pieces(self, token: Token) -> list[ChatCompletionChunk]:
        """The chunks of a token; one at least where it has log probabilities."""
        logprobs = self._logprobs([token]) if token.logprobs else None
        deltas = self._deltas(self._reader.feed(token.text))
        if logprobs is not None and not deltas:
            deltas = [Delta(content="") if isinstance(self._reader, TextReader) else Delta()]
        return [
            self._chunk(ChunkChoice(delta=delta, logprobs=None if number else logprobs))
            for number, delta in enumerate(deltas)
        ]

    def end(self, done: Done) -> list[ChatCompletionChunk]:
        """The rest of the answer and its end."""
        rest = [self._chunk(ChunkChoice(delta=delta)) for delta in self._deltas(self._reader.end())]
        return [*rest, self._chunk(ChunkChoice(delta=Delta(), finish_reason=reason_of(done, called=self._calls)))]

    def usage(self, done: Done) -> ChatCompletionChunk:
        return ChatCompletionChunk(**self._head, choices=[], usage=usage_of(done))

    def _deltas(self, pieces: Sequence[Piece]) -> list[Delta]:
        self._calls = self._calls or any(isinstance(piece, CallStart) for piece in pieces)
        return [_delta(piece) for piece in pieces]

    def _chunk(self, choice: ChunkChoice) -> ChatCompletionChunk:
        return ChatCompletionChunk(**self._head, choices=[choice])

    def _logprobs(self, tokens: Sequence[Token]) -> ChoiceLogprobs:
        return ChoiceLogprobs(
            content=[
                ChosenLogprob(
                    **self._token(token.id, token.logprobs.chosen),
                    top_logprobs=[TokenLogprob(**self._token(other, value)) for other, value in token.logprobs.top],
                )
                for token in tokens
                if token.id is not None and token.logprobs is not None
            ]
        )

    def _token(self, token: int, logprob: float) -> dict[str, Any]:
        data = self._bytes_of(token)
        return {"token": data.decode(errors="replace"), "logprob": logprob, "bytes": list(data)}


def _delta(piece: Piece) -> Delta:
    if isinstance(piece, TextDelta):
        return Delta(content=piece.text)
    if isinstance(piece, ArgumentsDelta):
        return Delta(tool_calls=[CallDelta(index=piece.index, function=CallFunction(arguments=piece.text))])
    function = CallFunction(name=piece.name, arguments="")
    return Delta(tool_calls=[CallDelta(index=piece.index, id=piece.id, type="function", function=function)])


def reason_of(done: Done, *, called: bool) -> FinishReason:
    """`tool_calls` for an answer that has called tools and was not cut off."""
    if done.finish_reason == "length":
        return "length"
    return "tool_calls" if called else "stop"


def usage_of(done: Done) -> CompletionUsage:
    return CompletionUsage(
        prompt_tokens=done.prompt_tokens,
        completion_tokens=done.completion_tokens,
        total_tokens=done.prompt_tokens + done.completion_tokens,
        prompt_tokens_details=PromptDetails(audio_tokens=done.audio_tokens),
    )
