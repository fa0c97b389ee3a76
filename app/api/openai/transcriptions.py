"""`POST /v1/audio/transcriptions`: a recording to text, one window of the model after the other.

All windows are asked at once and share a batch; their texts are joined in order, and where two windows overlap, at the
words that both have.
"""

import asyncio
import re
import zlib
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from itertools import pairwise, zip_longest
from typing import Annotated, Any, ClassVar, Literal

from fastapi import APIRouter, Form, Request, Response, UploadFile
from fastapi.responses import JSONResponse, PlainTextResponse
from pydantic import ConfigDict, Field, field_validator, model_validator

from app.api.admission import AskingRoute
from app.api.forms import Text
from app.api.generate import CLIENT_CLOSED_REQUEST
from app.api.hearing import Heard, hear
from app.api.openai.details import OvertoneDetails, details_of, headers
from app.api.openai.errors import documented, error_body
from app.api.openai.fields import Neutral, OpenAIFields
from app.api.openai.joining import Joined, join, seam
from app.api.openai.languages import language_of, prompt_in
from app.api.openai.models import shares_of
from app.api.openai.requests import Inform, ModelName, Seed, Temperature, seed_or_random
from app.api.openai.subtitles import srt, vtt
from app.api.openai.transcripts import (
    DurationUsage,
    Segment,
    Transcription,
    VerboseTranscription,
    usage_of,
)
from app.api.problems import InvalidFields
from app.api.sse import DONE, event_stream, message
from app.api.state import Ready, RequestDesk, State
from app.api.tickets import Disconnected, Question, Ticket, unless_gone
from app.engine.request import Done, Sampling, Share, Token
from app.errors import OvertoneError
from app.model.features import Clip
from app.service import DEFAULT_PROMPT, default_prompt, user_message

router = APIRouter(route_class=AskingRoute, tags=["openai"])
MOST_TOKENS = 448  # of one window, as Whisper's decoder allows; fast speech takes about half
FRAMES_PER_SECOND = 100  # the unit of `seek`


class TranscriptionForm(OpenAIFields):
    """OpenAI's parameters as far as they are supported."""

    model_config = ConfigDict(extra="forbid", arbitrary_types_allowed=True)
    hints: ClassVar[dict[str, str]] = {"audio": "file", "granularities": "timestamp_granularities[]"}
    unsupported: ClassVar[Neutral] = {
        "include": (),
        "include[]": (),
        "chunking_strategy": ("auto",),  # what is done here
        "known_speaker_names": (),
        "known_speaker_names[]": (),
        "known_speaker_references": (),
        "known_speaker_references[]": (),
        "keywords": (),
        "keywords[]": (),
        "languages": (),
        "languages[]": (),
        "task": ("transcribe",),
        # vLLM's, with their defaults
        "to_language": (),
        "top_p": (1,),
        "top_k": (0, -1),
        "min_p": (0,),
        "frequency_penalty": (0,),
        "presence_penalty": (0,),
        "repetition_penalty": (1,),
        "hotwords": (),
        "stream_include_usage": (True, False),
        "stream_continuous_usage_stats": (False,),
    }

    file: UploadFile = Field(description="wav, flac, ogg, opus, mp3, m4a, mp4 or webm, at any rate")
    model: ModelName
    prompt: Text | None = Field(
        None, description="what to tell the model; default: the adapter's own, or to transcribe"
    )
    language: str | None = Field(
        None, max_length=100, description="of the speech: `de`, `de-AT`, `deu` or `german`; the default prompt names it"
    )
    response_format: Literal["json", "text", "srt", "verbose_json", "vtt"] = "json"
    temperature: Temperature = 0.0
    seed: Seed | None = None
    stream: bool = False
    granularities: list[Literal["segment"]] = Field([], alias="timestamp_granularities[]")
    user: Any = Inform
    metadata: Any = Inform

    @field_validator("granularities", mode="before")
    @classmethod
    def _one_by_one(cls, value: Any) -> Any:
        """Also as clients write a list into one field: `segment,word` or `["segment"]`."""
        if not isinstance(value, list):
            return value
        return [word for text in value for word in re.split(r"[\s,\[\]\"']+", str(text)) if word]

    @field_validator("language")
    @classmethod
    def _known_language(cls, value: str | None) -> str | None:
        return language_of(value) if value is not None else None

    @model_validator(mode="after")
    def _agrees(self) -> "TranscriptionForm":
        if self.stream and self.response_format != "json":
            raise InvalidFields("stream goes with the response_format json.", ["stream"])
        if self.granularities and self.response_format != "verbose_json":
            raise InvalidFields(
                "timestamp_granularities goes with the response_format verbose_json.", ["timestamp_granularities"]
            )
        return self

    def prompt_for(self, shares: Sequence[Share]) -> str:
        """What the model is told: the request's prompt, the adapter's own, or to transcribe speech of the language."""
        told = self.prompt or default_prompt(shares)
        return prompt_in(self.language) if told == DEFAULT_PROMPT else told

    def notices(self, shares: Sequence[Share]) -> list[str]:
        """What was asked for and is not done."""
        if self.language is None or prompt_in(self.language) == self.prompt_for(shares):
            return []
        return ["language: not used, since the prompt is not the default one; name the language in the prompt"]

    @property
    def with_segments(self) -> bool:
        return self.response_format == "verbose_json"


@dataclass(frozen=True)
class Window:
    """One clip's part of the recording, in seconds, and the ticket that transcribes it.

    ``overlaps``: its sound begins with the end of the window before; the time is shared out evenly.
    """

    start: float
    end: float
    overlaps: bool
    ticket: Ticket


Said = tuple[list[Token], Done]
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
    desk: RequestDesk,
) -> Response:
    """Transcribe a recording, as OpenAI's API does.

    ```sh
    curl localhost:8000/v1/audio/transcriptions -F model=base -F file=@clip.wav
    curl localhost:8000/v1/audio/transcriptions -F model=base -F file=@talk.mp3 -F response_format=verbose_json
    curl localhost:8000/v1/audio/transcriptions -F model=base -F file=@talk.mp3 -F response_format=srt
    ```
    """
    shares = await asyncio.to_thread(shares_of, service, form.model)
    heard = await hear(state, service, [form.file], transcript=True)
    told = details_of(heard, form.notices(shares))
    windows = []
    for clip, (start, end, overlaps) in zip(heard.clips[0], _times(heard), strict=True):
        question = _question(form, shares, clip, service.features.seconds(clip), heard.took_s)
        windows.append(Window(start, end, overlaps, await desk.submit(question)))
    if form.stream:
        return event_stream(_events(windows, told), headers=headers(told))
    try:
        ends = await unless_gone(http, *(window.ticket.whole() for window in windows))
    except Disconnected:
        return Response(status_code=CLIENT_CLOSED_REQUEST)
    said: list[Said] = []
    for ended in ends:
        if isinstance(ended, BaseException):
            raise ended
        said.append(ended)
    return _answer(form, heard, told, windows, said)


def _answer(
    form: TranscriptionForm,
    heard: Heard,
    told: OvertoneDetails | None,
    windows: Sequence[Window],
    said: Sequence[Said],
) -> Response:
    own = headers(told)
    segments = _segments(form, windows, said)
    text = join(segment.text for segment in segments)
    if form.response_format == "text":
        return PlainTextResponse(f"{text}\n", headers=own)
    if form.response_format == "srt":
        return PlainTextResponse(srt(segments), headers=own, media_type="application/x-subrip; charset=utf-8")
    if form.response_format == "vtt":
        return PlainTextResponse(vtt(segments), headers=own, media_type="text/vtt")
    if form.response_format == "json":
        answer = Transcription(text=text, usage=usage_of([done for _, done in said]), overtone=told)
        return JSONResponse(answer.model_dump(), headers=own)
    (receipt,) = heard.receipts
    seconds = round(receipt.seconds_used + receipt.skipped_seconds, 3)
    verbose = VerboseTranscription(
        language=form.language or "unknown",
        duration=seconds,
        text=text,
        segments=segments,
        usage=DurationUsage(seconds=seconds),
        overtone=told,
    )
    return JSONResponse(verbose.model_dump(), headers=own)


def _times(heard: Heard) -> list[tuple[float, float, bool]]:
    """Start and end of each window in seconds, in order and disjoint; whether its sound overlaps the window before."""
    segments = heard.receipts[0].segments
    meets = [(one.end + other.start) / 2 if other.start < one.end else None for one, other in pairwise(segments)]
    starts, ends = [None, *meets], [*meets, None]
    return [
        (segment.start if start is None else start, segment.end if end is None else end, start is not None)
        for segment, start, end in zip(segments, starts, ends, strict=False)
    ]


def _question(
    form: TranscriptionForm, shares: tuple[Share, ...], clip: Clip, seconds: float, heard_s: float
) -> Question:
    sampling = Sampling(
        MOST_TOKENS, form.temperature, seed=seed_or_random(form.seed), logprobs=0 if form.with_segments else None
    )
    messages = user_message([[clip]], form.prompt_for(shares))
    return Question(messages, shares, sampling, heard_s, seconds, fit=True)


def _segments(form: TranscriptionForm, windows: Sequence[Window], said: Sequence[Said]) -> list[Segment]:
    """A segment for each window, without what the window before says as well."""
    texts = [done.text for _, done in said]
    starts, ends, marks = [0] * len(texts), [len(text) for text in texts], [""] * len(texts)
    for number, window in enumerate(windows):
        if window.overlaps:
            before = number - 1
            found = seam(texts[before][starts[before] :], texts[number])
            ends[before], marks[before], starts[number] = starts[before] + found.end, found.marks, found.start
    return [
        _segment(form, number, window, text[start:end] + mark, _between(tokens, text, start, end))
        for number, (window, (tokens, _), text, start, end, mark) in enumerate(
            zip(windows, said, texts, starts, ends, marks, strict=True)
        )
    ]


def _between(tokens: Sequence[Token], text: str, start: int, end: int) -> list[Token]:
    """The tokens of a text that have a part between two of its characters."""
    kept, place = [], 0
    for token in tokens:
        after = place + len(token.text)
        if (after > start or start == 0) and (place < end or end == len(text)):
            kept.append(token)
        place = after
    return kept


def _segment(form: TranscriptionForm, number: int, window: Window, text: str, tokens: Sequence[Token]) -> Segment:
    logprobs = [token.logprobs.chosen for token in tokens if token.logprobs]
    data = text.encode()
    return Segment(
        id=number,
        seek=round(window.start * FRAMES_PER_SECOND),
        start=round(window.start, 3),
        end=round(window.end, 3),
        text=text,
        tokens=[token.id for token in tokens if token.id is not None],
        temperature=form.temperature,
        avg_logprob=sum(logprobs) / len(logprobs) if logprobs else 0.0,
        compression_ratio=len(data) / len(zlib.compress(data)),
    )


async def _events(windows: Sequence[Window], told: OvertoneDetails | None) -> AsyncIterator[str]:
    """The windows in order; the later ones are on their way meanwhile. Deltas join to the text of `done`."""
    ends: list[Done] = []
    text, joined = "", Joined()
    try:
        async for begins, piece in _pieces(windows, ends):
            if begins:
                joined.next_window()
            if delta := joined.push(piece):
                text += delta
                yield message({"type": "transcript.text.delta", "delta": delta})
        beside = {"overtone": told.model_dump()} if told else {}
        usage = usage_of(ends).model_dump()
        yield message({"type": "transcript.text.done", "text": text, "usage": usage, **beside})
    except OvertoneError as error:
        yield message(error_body(error))
    yield DONE


async def _pieces(windows: Sequence[Window], ends: list[Done]) -> AsyncIterator[tuple[bool, str]]:
    """Text as it comes, and whether it begins a window; ``ends`` gathers their ends.

    A window that overlaps another comes whole, once it is known where their texts meet.
    """
    before = ""
    for window, later in zip_longest(windows, windows[1:]):
        overlapped = later is not None and later.overlaps
        if not window.overlaps and not overlapped:
            begins = True
            async for said in window.ticket.events():
                if isinstance(said, Done):
                    ends.append(said)
                else:
                    yield begins, said.text
                    begins = False
            continue
        ends.append(await window.ticket.done())
        text = ends[-1].text
        if window.overlaps:
            found = seam(before, text)
            yield True, before[: found.end] + found.marks
            text = text[found.start :]
        before = text
        if not overlapped:
            yield True, text
