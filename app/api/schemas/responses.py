"""The answers of `/generate` and `/compare`."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from pydantic import BaseModel, Field

from app.api.audio_input import DecodedAudio
from app.api.problems import Problem
from app.api.streaming import Generation
from app.engine.request import Done, LoRAWeight
from app.service.adapters import BASE


class MixPart(BaseModel):
    """One adapter of a mix."""

    name: str
    version: int
    weight: float


class AdapterRef(BaseModel):
    """The adapter or mix of an answer."""

    name: str = Field(description="a name, `base`, or the mix", examples=["base"])
    version: int | None = Field(None, description="none for the base model and for mixes")
    mix: list[MixPart] | None = Field(None, description="the parts of a mix")


class Usage(BaseModel):
    """Tokens; those of the audio are part of the prompt's."""

    prompt_tokens: int = Field(examples=[93])
    audio_tokens: int = Field(examples=[73])
    completion_tokens: int = Field(examples=[5])


class ClipSegment(BaseModel):
    """A part of the recording that became one clip, in seconds."""

    start: float = Field(examples=[0.0])
    end: float = Field(examples=[2.94])


class AudioReceipt(BaseModel):
    """One recording as it was decoded. Levels: 1.0 is full scale."""

    container: str = Field(examples=["FLAC"])
    codec: str = Field(examples=["PCM_16"])
    sample_rate: int = Field(examples=[16000])
    channels: int = Field(examples=[1])
    seconds: float = Field(examples=[2.94])
    seconds_used: float = Field(examples=[2.94])
    peak: float = Field(examples=[0.61])
    rms_dbfs: float = Field(examples=[-19.4])
    clipped: float = Field(description="share of samples at full scale, in the channel with most", examples=[0.0])
    silent: bool = Field(description="no channel is louder than -60 dBFS for 0.1 s", examples=[False])
    warnings: list[str] = Field(examples=[[]])
    track: int = Field(1, description="the audio track that was used", examples=[1])
    tracks: int = Field(1, description="audio tracks in the file", examples=[1])
    segments: list[ClipSegment] = Field(description="one per clip, in order; what lies between was skipped")
    skipped_seconds: float = Field(description="long silence that was not sent to the model", examples=[0.0])


class Timings(BaseModel):
    """Milliseconds. `audio`: decoding, features and encoder; `ttft` and `total` include all before them."""

    queue: float = Field(examples=[0.4])
    activation: float = Field(description="part of queue: waiting for the adapter's weights", examples=[0.0])
    audio: float = Field(examples=[38.1])
    prefill: float = Field(examples=[21.7])
    ttft: float = Field(examples=[60.9])
    decode: float = Field(examples=[48.0])
    total: float = Field(examples=[108.9])


class Answer(BaseModel):
    """One finished answer."""

    id: str = Field(examples=["req-17"])
    text: str = Field(examples=["go forward ten meters"])
    adapter: AdapterRef
    finish_reason: str = Field(description="`stop`: said all, or met a stop string; `length`", examples=["stop"])
    usage: Usage
    audio: list[AudioReceipt]
    timings_ms: Timings
    seed: int = Field(description="send it again, with all else equal, for the same answer", examples=[12345])


class ComparedAnswer(Answer):
    """One of several answers, in the order of `adapters`."""

    index: int


class ComparedError(BaseModel):
    """An adapter that could not answer, in its place."""

    index: int
    adapter: AdapterRef
    error: Problem


class Comparison(BaseModel):
    """Answers side by side."""

    answers: list[ComparedAnswer | ComparedError]


def answer_of(generation: Generation, done: Done, audio: DecodedAudio) -> Answer:
    """The answer of a generation that is done."""
    decoding_ms = 1e3 * audio.decoding_seconds
    timings = asdict(done.timings)
    for name in ("audio", "ttft", "total"):
        timings[name] += decoding_ms
    return Answer(
        id=generation.id,
        text=done.text,
        adapter=adapter_ref(generation.input.adapters),
        finish_reason=done.finish_reason,
        usage=Usage(
            prompt_tokens=done.prompt_tokens,
            audio_tokens=done.audio_tokens,
            completion_tokens=done.completion_tokens,
        ),
        audio=[AudioReceipt(**asdict(receipt)) for receipt in audio.receipts],
        timings_ms=Timings(**{name: round(value, 2) for name, value in timings.items()}),
        seed=generation.input.sampling.seed,
    )


def adapter_ref(adapters: Sequence[LoRAWeight]) -> AdapterRef:
    """The adapters of an answer: one by name and version, several as a mix, none as the base model."""
    if not adapters:
        return AdapterRef(name=BASE)
    if len(adapters) == 1 and adapters[0].weight == 1.0:
        return AdapterRef(name=adapters[0].adapter.name, version=adapters[0].adapter.version)
    parts = [MixPart(name=one.adapter.name, version=one.adapter.version, weight=one.weight) for one in adapters]
    return AdapterRef(name=",".join(f"{part.name}:{part.weight:g}" for part in parts), mix=parts)


def compact(model: BaseModel) -> dict[str, Any]:
    """As JSON, without the fields that say nothing."""
    return model.model_dump(mode="json", exclude_none=True)
