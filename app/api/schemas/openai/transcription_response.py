"""The answers of `/v1/audio/transcriptions` and `/v1/audio/translations`."""

from collections.abc import Sequence
from typing import Literal

from pydantic import BaseModel, Field

from app.api.schemas.openai.details import WithDetails
from app.engine.request import Done


class InputDetails(BaseModel):
    """Input tokens by kind."""

    text_tokens: int
    audio_tokens: int


class TokenUsage(BaseModel):
    """Tokens of all windows together."""

    type: Literal["tokens"] = "tokens"
    input_tokens: int
    output_tokens: int
    total_tokens: int
    input_token_details: InputDetails


class Transcription(WithDetails):
    """`json`."""

    text: str
    usage: TokenUsage


class DurationUsage(BaseModel):
    """Seconds of audio."""

    type: Literal["duration"] = "duration"
    seconds: float


class Segment(BaseModel):
    """One window. `no_speech_prob`, which Whisper alone has, is not there."""

    id: int
    seek: int = Field(description="start in hundredths of a second")
    start: float
    end: float
    text: str
    tokens: list[int]
    temperature: float
    avg_logprob: float = Field(description="mean over the tokens; 0 where there is none")
    compression_ratio: float = Field(description="above 2.4 the text probably repeats itself")


class VerboseTranscription(WithDetails):
    """`verbose_json`. The language is not detected: it is the one that the request names; of a translation, English."""

    task: Literal["transcribe", "translate"] = "transcribe"
    language: str = "unknown"
    duration: float
    text: str
    segments: list[Segment]
    usage: DurationUsage


def usage_of(ends: Sequence[Done]) -> TokenUsage:
    """All windows together."""
    prompt, audio, output = (
        sum(getattr(done, name) for done in ends) for name in ("prompt_tokens", "audio_tokens", "completion_tokens")
    )
    details = InputDetails(text_tokens=prompt - audio, audio_tokens=audio)
    return TokenUsage(
        input_tokens=prompt, output_tokens=output, total_tokens=prompt + output, input_token_details=details
    )
