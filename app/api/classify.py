"""`POST /classify`: labels with probabilities, from an adapter that carries a classification head."""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import asdict
from typing import Annotated, Any, ClassVar

from fastapi import APIRouter, Form, Request, Response, UploadFile
from pydantic import BaseModel, ConfigDict, Field

from app.api.admission import AskingRoute
from app.api.answers import AdapterRef, AudioReceipt
from app.api.fields import KnownFields
from app.api.generate import CLIENT_CLOSED_REQUEST
from app.api.hearing import Heard, hear
from app.api.problems import documented
from app.api.state import Ready, State
from app.api.tickets import Disconnected, unless_gone
from app.engine.request import Listened, new_id
from app.errors import OvertoneError
from app.model.head import Head, Moments, pool

MOST_LONG = 8  # of the longest recordings together in one request: their features take 1.5 MB for 30 s

router = APIRouter(route_class=AskingRoute, tags=["generate"])


class ClassifyForm(KnownFields):
    """`POST /classify`."""

    model_config = ConfigDict(extra="forbid", arbitrary_types_allowed=True)
    hints: ClassVar[dict[str, str]] = {"audios": "audio", "file": "audio", "files": "audio", "model": "adapter"}

    audio: list[UploadFile] = Field(min_length=1, max_length=32, description="recordings; each is classified by itself")
    adapter: str | None = Field(
        None,
        max_length=2000,
        description="an adapter with a classification head; default: the selected adapter, if it is one",
        examples=["sounds"],
    )


class LabelProbability(BaseModel):
    """How likely a label is; those of one recording sum to 1."""

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
    """Tell what kind of recording it is.

    ```sh
    curl localhost:8000/classify -F audio=@clip.wav -F adapter=sounds
    curl localhost:8000/classify -F audio=@one.wav -F audio=@two.wav -F adapter=sounds
    ```

    A recording longer than the model's window is heard whole: the head is asked once, about all of its clips together.
    """
    begun = time.monotonic()
    adapter = await asyncio.to_thread(service.classifier, form.adapter)
    head = await asyncio.to_thread(service.heads.get, adapter)
    heard = await hear(state, service, form.audio, seconds=MOST_LONG * service.settings.max_audio_seconds)
    clips = tuple(clip for clips in heard.clips for clip in clips)
    # cancelled with this request, and the work in the engine with it
    future = asyncio.wrap_future(service.engine.listen(clips, begun + service.settings.request_seconds))
    outcome = "cancelled"
    try:
        (listened,) = await unless_gone(http, future)
        if isinstance(listened, BaseException):
            raise listened
        outcome = "classified"
    except Disconnected:
        return Response(status_code=CLIENT_CLOSED_REQUEST)
    except OvertoneError as error:
        outcome = error.code
        raise
    finally:
        state.metrics.classified(adapter, outcome, heard.seconds, time.monotonic() - begun)
    found = await asyncio.to_thread(_judge, head, _by_recording(listened, heard))
    single = found[0].model_dump() if len(found) == 1 else {"results": found}
    return Classification(
        id=new_id(),
        adapter=AdapterRef(name=adapter.name, version=adapter.version),
        **single,
        audio=[AudioReceipt(**asdict(receipt)) for receipt in heard.receipts],
        timings_ms=ClassifyTimings(
            queue=round(listened.queue, 2),
            audio=round(1e3 * heard.took_s + listened.audio, 2),
            total=round(1e3 * (time.monotonic() - begun), 2),
        ),
    )


def _by_recording(listened: Listened, heard: Heard) -> list[Sequence[Moments]]:
    """The clips of each recording, which lie one after another."""
    rest = iter(listened.clips)
    return [[next(rest) for _ in clips] for clips in heard.clips]


def _judge(head: Head, recordings: Sequence[Sequence[Moments]]) -> list[Classified]:
    """The head's answer to each recording, asked alone, so that its neighbours change no bit of it."""
    rows = [head.probabilities(pool(clips)[None])[0] for clips in recordings]
    return [_classified(head.config.labels, row.tolist()) for row in rows]


def _classified(labels: Sequence[str], probabilities: Sequence[float]) -> Classified:
    found = [LabelProbability(label=la, probability=p) for la, p in zip(labels, probabilities, strict=True)]
    found.sort(key=lambda entry: -entry.probability)
    return Classified(label=found[0].label, labels=found)
