"""The answers of `/v1/chat/completions` as the client reads them."""

import secrets
import time
from collections.abc import Callable, Sequence
from typing import Any, Literal

from pydantic import BaseModel, Field

from app.api.openai.details import OvertoneDetails, WithDetails
from app.engine.request import Done, Token

FinishReason = Literal["stop", "length"]
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


class AnswerMessage(BaseModel):
    """What the model said."""

    role: Literal["assistant"] = "assistant"
    content: str
    refusal: None = None


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


class Delta(BaseModel):
    """What is new in a chunk."""

    role: Literal["assistant"] | None = None
    content: str | None = None


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


class Written:
    """One answer on its way to the client, whole or in chunks.

    ``model``: as the client named it; ``told``: what the whole answer, or the first chunk, tells beside it.
    """

    def __init__(self, model: str, fingerprint: str, bytes_of: BytesOf, told: OvertoneDetails | None = None) -> None:
        self._head: dict[str, Any] = {
            "id": f"chatcmpl-{secrets.token_hex(12)}",
            "created": int(time.time()),
            "model": model,
            "system_fingerprint": f"fp_{fingerprint[:16]}",
        }
        self._bytes_of = bytes_of
        self._details = told

    def whole(self, tokens: Sequence[Token], done: Done, logprobs: bool) -> ChatCompletion:
        """The answer in one piece."""
        choice = Choice(
            message=AnswerMessage(content=done.text),
            logprobs=self._logprobs(tokens) if logprobs else None,
            finish_reason=reason_of(done),
        )
        return ChatCompletion(**self._head, choices=[choice], usage=usage_of(done), overtone=self._details)

    def begin(self) -> ChatCompletionChunk:
        chunk = self._chunk(ChunkChoice(delta=Delta(role="assistant", content="")))
        return chunk.model_copy(update={"overtone": self._details})

    def piece(self, token: Token) -> ChatCompletionChunk:
        told = self._logprobs([token]) if token.logprobs else None
        return self._chunk(ChunkChoice(delta=Delta(content=token.text), logprobs=told))

    def end(self, done: Done) -> ChatCompletionChunk:
        return self._chunk(ChunkChoice(delta=Delta(), finish_reason=reason_of(done)))

    def usage(self, done: Done) -> ChatCompletionChunk:
        return ChatCompletionChunk(**self._head, choices=[], usage=usage_of(done))

    def _chunk(self, choice: ChunkChoice) -> ChatCompletionChunk:
        return ChatCompletionChunk(**self._head, choices=[choice])

    def _logprobs(self, tokens: Sequence[Token]) -> ChoiceLogprobs:
        return ChoiceLogprobs(
            content=[
                ChosenLogprob(
                    **self._told(token.id, token.logprobs.chosen),
                    top_logprobs=[TokenLogprob(**self._told(other, value)) for other, value in token.logprobs.top],
                )
                for token in tokens
                if token.id is not None and token.logprobs is not None
            ]
        )

    def _told(self, token: int, logprob: float) -> dict[str, Any]:
        said = self._bytes_of(token)
        return {"token": said.decode(errors="replace"), "logprob": logprob, "bytes": list(said)}


def reason_of(done: Done) -> FinishReason:
    return "length" if done.finish_reason == "length" else "stop"


def usage_of(done: Done) -> CompletionUsage:
    return CompletionUsage(
        prompt_tokens=done.prompt_tokens,
        completion_tokens=done.completion_tokens,
        total_tokens=done.prompt_tokens + done.completion_tokens,
        prompt_tokens_details=PromptDetails(audio_tokens=done.audio_tokens),
    )
