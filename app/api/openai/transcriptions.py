"""`POST /v1/audio/transcriptions` and `/v1/audio/translations`: a recording to text, in its language or in English.

All windows of a recording are submitted at once and share a batch; their texts are joined in order.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Annotated, Any

from fastapi import APIRouter, Form, Request, Response
from fastapi.responses import JSONResponse, PlainTextResponse

from app.api.audio_input import DecodedAudio, decode_uploads
from app.api.dependencies import AppState, Ready, State, Submit
from app.api.disconnect import results
from app.api.load_shedding import SheddingRoute
from app.api.openai.errors import documented, error_body
from app.api.openai.joining import join
from app.api.openai.models import resolve_model
from app.api.openai.subtitles import srt, vtt
from app.api.openai.windows import Transcript, Window, joined_deltas, segments_of, times_of
from app.api.remembering import Memory
from app.api.schemas.openai.details import OvertoneDetails, details_of, headers
from app.api.schemas.openai.transcription_request import TranscriptionForm, TranslationForm
from app.api.schemas.openai.transcription_response import (
    DurationUsage,
    Segment,
    Transcription,
    VerboseTranscription,
    usage_of,
)
from app.api.sse import DONE, event_stream, message
from app.api.streaming import Submitter
from app.engine.request import Done
from app.errors import OvertoneError
from app.service import Service

router = APIRouter(route_class=SheddingRoute, tags=["openai"])
RESPONSES: dict[int | str, dict[str, Any]] = {
    200: {
        "model": Transcription | VerboseTranscription,
        "description": "With `stream`, events `transcript.text.delta`, `transcript.text.done`, then `[DONE]`.",
        "content": {
            "text/plain": {"example": "go forward ten meters\n"},
            "application/x-subrip": {"example": "1\n00:00:00,000 --> 00:00:02,786\ngo forward ten meters\n"},
            "text/vtt": {"example": "WEBVTT\n\n00:00:00.000 --> 00:00:02.786\ngo forward ten meters\n"},
            "text/event-stream": {},
        },
    },
    **documented(400, 401, 404, 408, 413, 429, 500, 503, 504),
}


@router.post("/v1/audio/transcriptions", response_model=None, responses=RESPONSES)
async def create_transcription(
    form: Annotated[TranscriptionForm, Form(media_type="multipart/form-data")],
    http: Request,
    state: State,
    service: Ready,
    submitter: Submit,
) -> Response:
    """Transcribe a recording, as OpenAI's API does.

    ```sh
    curl localhost:8000/v1/audio/transcriptions -F model=base -F file=@clip.wav
    curl localhost:8000/v1/audio/transcriptions -F model=base -F file=@talk.mp3 -F response_format=verbose_json
    curl localhost:8000/v1/audio/transcriptions -F model=base -F file=@talk.mp3 -F response_format=srt
    ```
    """
    return await _text_of(form, http, state, service, submitter)


@router.post("/v1/audio/translations", response_model=None, responses=RESPONSES)
async def create_translation(
    form: Annotated[TranslationForm, Form(media_type="multipart/form-data")],
    http: Request,
    state: State,
    service: Ready,
    submitter: Submit,
) -> Response:
    """Translate a recording into English, as OpenAI's API does; how well depends on the model and the adapter.

    `curl localhost:8000/v1/audio/translations -F model=base -F file=@clip.wav`
    """
    return await _text_of(form, http, state, service, submitter)


async def _text_of(
    form: TranscriptionForm, http: Request, state: AppState, service: Service, submitter: Submitter
) -> Response:
    adapters = await asyncio.to_thread(resolve_model, service, form.model)
    audio = await decode_uploads(state, service, [form.file], transcript=True)
    details = details_of(audio, form.notices(adapters))
    windows = []
    for clip, (start, end, overlaps) in zip(audio.clips[0], times_of(audio), strict=True):
        seconds = service.features.seconds(clip)
        asked = form.generation_input(clip, seconds, audio.decoding_seconds, adapters)
        windows.append(Window(start, end, overlaps, await submitter.submit(asked)))
    memory = await Memory.of(state, service, audio.uploads)

    def keep(text: str) -> None:
        if windows:
            memory.keep_transcript(windows[0].generation, text, audio, http.state.request_id)

    if form.stream:
        return event_stream(_events(windows, details, keep), headers=headers(details))
    transcripts = await results(http, *(window.generation.all() for window in windows))
    segments = segments_of(windows, transcripts, form.temperature)
    keep(join(segment.text for segment in segments))
    return _answer(form, audio, details, segments, transcripts)


def _answer(
    form: TranscriptionForm,
    audio: DecodedAudio,
    details: OvertoneDetails | None,
    segments: list[Segment],
    transcripts: Sequence[Transcript],
) -> Response:
    own = headers(details)
    text = join(segment.text for segment in segments)
    if form.response_format == "text":
        return PlainTextResponse(f"{text}\n", headers=own)
    if form.response_format == "srt":
        return PlainTextResponse(srt(segments), headers=own, media_type="application/x-subrip; charset=utf-8")
    if form.response_format == "vtt":
        return PlainTextResponse(vtt(segments), headers=own, media_type="text/vtt")
    if form.response_format == "json":
        answer = Transcription(text=text, usage=usage_of([done for _, done in transcripts]), overtone=details)
        return JSONResponse(answer.model_dump(), headers=own)
    (receipt,) = audio.receipts
    seconds = round(receipt.seconds_used + receipt.skipped_seconds, 3)
    verbose = VerboseTranscription(
        task=form.task,
        language="english" if form.task == "translate" else form.language or "unknown",
        duration=seconds,
        text=text,
        segments=segments,
        usage=DurationUsage(seconds=seconds),
        overtone=details,
    )
    return JSONResponse(verbose.model_dump(), headers=own)


async def _events(
    windows: Sequence[Window], details: OvertoneDetails | None, at_end: Callable[[str], None]
) -> AsyncIterator[str]:
    """The windows in order, while the later ones are already being transcribed; deltas add up to the text of `done`."""
    ends: list[Done] = []
    text = ""
    try:
        async for delta in joined_deltas(windows, ends):
            text += delta
            yield message({"type": "transcript.text.delta", "delta": delta})
        beside = {"overtone": details.model_dump()} if details else {}
        at_end(text)
        usage = usage_of(ends).model_dump()
        yield message({"type": "transcript.text.done", "text": text, "usage": usage, **beside})
    except OvertoneError as error:
        yield message(error_body(error))
    yield DONE
