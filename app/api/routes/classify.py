"""`POST /classify`: labels with probabilities, from an adapter that carries a classification head."""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import asdict
from typing import Annotated, Any, ClassVar

from fastapi import APIRouter, Form, Request, UploadFile
from pydantic import BaseModel, Field

from app.api.audio_input import DecodedAudio, decode_uploads
from app.api.dependencies import Ready, State
from app.api.disconnect import results
from app.api.load_shedding import SheddingRoute
from app.api.problems import documented
from app.api.schemas.fields import KnownFields, example
from app.api.schemas.responses import AdapterRef, AudioReceipt
from app.engine.request import PooledAudio, new_id
from app.errors import OvertoneError
from app.models.head import Head, Moments, pool

router = APIRouter(route_class=SheddingRoute, tags=["generate"])


class ClassifyForm(KnownFields):
    """`POST /classify`."""

    model_config = example({"audio": ["clip.wav"], "adapter": "sounds"})
    hints: ClassVar[dict[str, str]] = {"audios": "audio", "file": "audio", "files": "audio", "model": "adapter"}

    audio: list[UploadFile] = Field(min_length=1, max_length=32, description="recordings; each is classified by itself")
    adapter: str | None = Field(
        None,
        max_length=2000,
        description="an adapter with a classification head; default: the selected adapter, if it is one",
        examples=["sounds"],
    )


class LabelProbability(BaseModel):
    """The probability of a label; those of one recording sum to 1."""

    label: str = Field(examples=["speech"])
    probability: float = Field(examples=[0.987])


class Classified(BaseModel):
    """One recording's answer."""

    label: str = Field(description="the likeliest", examples=["speech"])
    labels: list[LabelProbability] = Field(description="all of the head's, likeliest first")


class ClassifyTimings(BaseModel):
    """Milliseconds. `audio`: decoding, features and encoder; `total` includes all."""

    queue: float = Field(examples=[0.4])
    audio: float = Field(examples=[38.1])
    total: float = Field(examples=[39.2])


class Classification(BaseModel):
    """`label` and `labels` for one recording, `results` for several, in the order of `audio`."""

    id: str = Field(examples=["req-17"])
    adapter: AdapterRef
    label: str | None = Field(None, description="the likeliest", examples=["speech"])
    labels: list[LabelProbability] | None = Field(None, description="all of the head's, likeliest first")
    results: list[Classified] | None = Field(None, description="with several recordings, one for each")
    audio: list[AudioReceipt]
    timings_ms: ClassifyTimings


RESPONSES = documented(400, 401, 403, 404, 408, 413, 415, 422, 429, 500, 503, 504)


@router.post("/classify", response_model=Classification, response_model_exclude_none=True, responses=RESPONSES)
async def classify(
    form: Annotated[ClassifyForm, Form(media_type="multipart/form-data")], http: Request, state: State, service: Ready
) -> Any:
    """Classify recordings.

    ```sh
    curl localhost:8000/classify -F audio=@clip.wav -F adapter=sounds
    curl localhost:8000/classify -F audio=@one.wav -F audio=@two.wav -F adapter=sounds
    ```

    A recording longer than the model's window is classified whole: the head is applied once, to all of its clips.
    """
    begun = time.monotonic()
    adapter = await asyncio.to_thread(service.adapters.classifier, form.adapter)
    head = await asyncio.to_thread(service.heads.get, adapter)
    audio = await decode_uploads(state, service, form.audio)
    clips = tuple(clip for clips in audio.clips for clip in clips)
    # cancelled with this request, and the work in the engine with it
    future = asyncio.wrap_future(service.engine.pool_audio(clips, begun + service.settings.request_seconds))
    outcome = "cancelled"
    try:
        (pooled,) = await results(http, future)
        outcome = "classified"
    except OvertoneError as error:
        outcome = error.code
        raise
    finally:
        state.metrics.classified(adapter, outcome, audio.seconds, time.monotonic() - begun)
    found = await asyncio.to_thread(_judge, head, _by_recording(pooled, audio))
    single = found[0].model_dump() if len(found) == 1 else {"results": found}
    return Classification(
        id=new_id(),
        adapter=AdapterRef(name=adapter.name, version=adapter.version),
        **single,
        audio=[AudioReceipt(**asdict(receipt)) for receipt in audio.receipts],
        timings_ms=ClassifyTimings(
            queue=round(pooled.queue, 2),
            audio=round(1e3 * audio.decoding_seconds + pooled.audio, 2),
            total=round(1e3 * (time.monotonic() - begun), 2),
        ),
    )


def _by_recording(pooled: PooledAudio, audio: DecodedAudio) -> list[Sequence[Moments]]:
    """The clips of each recording, which lie one after another."""
    rest = iter(pooled.clips)
    return [[next(rest) for _ in clips] for clips in audio.clips]


def _judge(head: Head, recordings: Sequence[Sequence[Moments]]) -> list[Classified]:
    """The head's answer to each recording, asked alone, so that its neighbours change no bit of it."""
    rows = [head.probabilities(pool(clips)[None])[0] for clips in recordings]
    return [_classified(head.config.labels, row.tolist()) for row in rows]


def _classified(labels: Sequence[str], probabilities: Sequence[float]) -> Classified:
    found = [LabelProbability(label=la, probability=p) for la, p in zip(labels, probabilities, strict=True)]
    found.sort(key=lambda entry: -entry.probability)
    return Classified(label=found[0].label, labels=found)
