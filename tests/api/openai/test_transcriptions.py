"""Transcriptions through the official client: formats, long recordings, streams."""

import html
import io
import itertools
import zlib
from typing import Any

import httpx
import numpy as np
import openai as sdk
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st
from openai import AsyncOpenAI, OpenAI

from app.api.openai.joining import Joined, join, seam
from tests.api.openai.conftest import BASE, COMMAND, HUMAN, Live
from tests.audio.speech import RATE, piece

PROMPT = "Please transcribe the audio, all of it."
CLIPS = ("goforward", "tidigits-2934z", "cards-001", "cards-002", "librivox-0870", "librivox-0880", "goforward")


def flac(samples: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, 16_000, format="FLAC", subtype="PCM_16")
    return buffer.getvalue()


@pytest.fixture(scope="module")
def long() -> np.ndarray:
    """A few windows of the encoder."""
    return np.concatenate([soundfile.read(HUMAN / f"{name}.flac", dtype="float32")[0] for name in CLIPS])


@given(st.lists(st.lists(st.text(" a\n字。", max_size=3), max_size=4), max_size=4))
def test_pieces_join_as_whole_texts_do(windows: list[list[str]]) -> None:
    joined, said = Joined(), ""
    for pieces in windows:
        joined.next_window()
        said += "".join(joined.push(piece) for piece in pieces)
    assert said == join("".join(pieces) for pieces in windows)


def test_formats(openai: OpenAI, plain: httpx.Client) -> None:
    said = plain.post("/generate", data={"adapter": "base"}, files={"audio": COMMAND.read_bytes()}).json()
    told = openai.audio.transcriptions.create(model=BASE, file=COMMAND)
    assert told.text == said["text"]
    assert told.usage.type == "tokens"
    assert told.usage.input_tokens == said["usage"]["prompt_tokens"]
    assert told.usage.input_token_details.audio_tokens == said["usage"]["audio_tokens"]
    assert told.usage.output_tokens == said["usage"]["completion_tokens"]
    assert told.usage.total_tokens == told.usage.input_tokens + told.usage.output_tokens
    assert openai.audio.transcriptions.create(model=BASE, file=COMMAND, response_format="text") == f"{said['text']}\n"
    verbose = openai.audio.transcriptions.create(
        model=BASE, file=COMMAND, response_format="verbose_json", timestamp_granularities=["segment"]
    )
    assert verbose.text == said["text"]
    assert verbose.duration == said["audio"][0]["seconds_used"] == verbose.usage.seconds
    (segment,) = verbose.segments
    assert (segment.start, segment.end, segment.text) == (0, verbose.duration, said["text"])


def test_the_model_and_the_prompt_count(openai: OpenAI) -> None:
    asked: Any = {"file": COMMAND, "model": "command-json"}
    assert openai.audio.transcriptions.create(**asked).text.startswith('{"intent"')
    mixed = openai.audio.transcriptions.create(file=COMMAND, model="nato:1,command-json:0.01")
    assert mixed.text != openai.audio.transcriptions.create(**asked).text
    sampled: Any = {"file": COMMAND, "model": BASE, "temperature": 3, "extra_body": {"seed": 4}}
    assert openai.audio.transcriptions.create(**sampled).text == openai.audio.transcriptions.create(**sampled).text
    prompted = openai.audio.transcriptions.create(
        file=COMMAND, model=BASE, prompt="Please transcribe the audio, all of it."
    )
    told = openai.audio.transcriptions.create(file=COMMAND, model=BASE)
    assert prompted.usage.input_tokens > told.usage.input_tokens


def test_long_audio_has_a_segment_for_each_window(openai: OpenAI, plain: httpx.Client, long: np.ndarray) -> None:
    whole = openai.audio.transcriptions.create(
        model=BASE, file=("long.flac", flac(long)), response_format="verbose_json"
    )
    assert len(whole.segments) >= 2
    windows = [long[round(one.start * RATE) : round(one.end * RATE)] for one in whole.segments]
    assert sum(map(len, windows)) == pytest.approx(len(long), abs=8)  # times are rounded to milliseconds
    alone = [openai.audio.transcriptions.create(model=BASE, file=("part.flac", flac(part))) for part in windows]
    assert [segment.text for segment in whole.segments] == [part.text for part in alone]
    assert whole.text == " ".join(part.text for part in alone)
    assert whole.duration == whole.usage.seconds == round(len(long) / RATE, 3)
    assert whole.segments[0].start == 0
    assert whole.segments[-1].end == whole.duration
    receipt = plain.post("/generate", data={"adapter": "base"}, files={"audio": flac(long)}).json()["audio"][0]
    assert [(one.start, one.end) for one in whole.segments] == [(o["start"], o["end"]) for o in receipt["segments"]]
    for index, segment in enumerate(whole.segments):
        assert segment.id == index
        assert segment.seek == round(100 * segment.start)
        assert segment.avg_logprob < 0
        text = segment.text.encode()
        assert segment.compression_ratio == len(text) / len(zlib.compress(text))
        assert segment.temperature == 0
    for before, after in itertools.pairwise(whole.segments):
        assert before.end == after.start
        around = long[round(after.start * RATE) - 800 : round(after.start * RATE) + 800]
        assert np.abs(around).max() < 0.05  # a pause, whoever speaks
    usage = openai.audio.transcriptions.create(model=BASE, file=("long.flac", flac(long))).usage
    assert usage.total_tokens == sum(part.usage.total_tokens for part in alone)


def test_tokens_of_segments_are_those_of_their_texts(openai: OpenAI, live: Live, long: np.ndarray) -> None:
    whole = openai.audio.transcriptions.create(
        model=BASE, file=("long.flac", flac(long)), response_format="verbose_json"
    )
    for segment in whole.segments:
        assert live.service.prompts.decode(segment.tokens) == segment.text


def test_long_silence_is_skipped_and_told(openai: OpenAI, long: np.ndarray) -> None:
    """The times are those of the recording as it was sent; what is said is what is said without the silence."""
    said = long[: 7 * RATE]
    quiet = np.zeros(30 * RATE, np.float32)
    samples = np.concatenate([quiet, said, quiet, said])
    whole = openai.audio.transcriptions.create(
        model=BASE, file=("a.flac", flac(samples)), response_format="verbose_json"
    )
    assert whole.duration == whole.usage.seconds == round(len(samples) / RATE, 3)
    first, second = whole.segments
    assert first.start == pytest.approx(30, abs=0.7)
    assert first.end == pytest.approx(37, abs=0.7)
    assert second.start == pytest.approx(67, abs=0.7)
    assert second.end == whole.duration
    parts = [samples[round(one.start * RATE) : round(one.end * RATE)] for one in whole.segments]
    alone = [openai.audio.transcriptions.create(model=BASE, file=("part.flac", flac(part))).text for part in parts]
    assert [first.text, second.text] == alone


@pytest.mark.parametrize("seconds", [3, 65])
def test_silence_is_transcribed_as_nothing(openai: OpenAI, seconds: int) -> None:
    """The model, asked about silence, makes something up; so it is not asked."""
    file = ("silence.flac", flac(np.zeros(seconds * RATE, np.float32)))
    asked: Any = {"model": BASE, "file": file}
    told = openai.audio.transcriptions.create(**asked)
    assert (told.text, told.usage.total_tokens) == ("", 0)
    verbose = openai.audio.transcriptions.create(**asked, response_format="verbose_json")
    assert (verbose.text, verbose.segments, verbose.duration) == ("", [], seconds)
    assert openai.audio.transcriptions.create(**asked, response_format="text") == "\n"
    assert openai.audio.transcriptions.create(**asked, response_format="srt") == ""
    assert openai.audio.transcriptions.create(**asked, response_format="vtt") == "WEBVTT\n"
    (done,) = openai.audio.transcriptions.create(**asked, stream=True)
    assert (done.type, done.text) == ("transcript.text.done", "")


def test_a_whisper_is_no_silence(openai: OpenAI) -> None:
    samples, _ = soundfile.read(COMMAND, dtype="float32")
    quiet = openai.audio.transcriptions.create(model=BASE, file=("quiet.flac", flac(samples * np.float32(2e-3))))
    assert quiet.text


def test_subtitles_have_the_segments_times(openai: OpenAI, plain: httpx.Client, long: np.ndarray) -> None:
    asked: Any = {"model": BASE, "file": ("long.flac", flac(long))}
    segments = openai.audio.transcriptions.create(**asked, response_format="verbose_json").segments
    for kind, media, point in (("srt", "application/x-subrip", ","), ("vtt", "text/vtt", ".")):
        sent = {"model": "base", "response_format": kind}
        response = plain.post("/v1/audio/transcriptions", data=sent, files={"file": flac(long)})
        assert response.headers["content-type"] == f"{media}; charset=utf-8"
        assert openai.audio.transcriptions.create(**asked, response_format=kind) == response.text
        blocks = response.text.split("\n\n")
        if kind == "vtt":
            assert blocks.pop(0) == "WEBVTT"
        assert len(blocks) == len(segments)
        for number, (block, segment) in enumerate(zip(blocks, segments, strict=True), 1):
            *counted, times, text = block.strip().split("\n")
            assert counted == ([str(number)] if kind == "srt" else [])
            begin, end = (
                sum(float(part) * 60**place for place, part in enumerate(reversed(one.replace(point, ".").split(":"))))
                for one in times.split(" --> ")
            )
            assert (begin, end) == pytest.approx((segment.start, segment.end), abs=5e-4)
            assert html.unescape(text) == " ".join(segment.text.split())


@pytest.fixture(scope="module")
def breathless(long: np.ndarray) -> np.ndarray:
    """Two windows and a half without a pause."""
    words = piece("librivox-0920")
    return np.tile(words, 25 * RATE // len(words) + 1)


def test_without_a_pause_windows_overlap_and_their_texts_meet(
    openai: OpenAI, live: Live, breathless: np.ndarray
) -> None:
    asked: Any = {"model": BASE, "file": ("a.flac", flac(breathless))}
    whole = openai.audio.transcriptions.create(**asked, response_format="verbose_json")
    receipt, clips = live.service.read_clips(flac(breathless), transcript=True)
    assert len(whole.segments) == len(clips) >= 3
    spans = [breathless[round(one.start * RATE) : round(one.end * RATE)] for one in receipt.segments]
    assert sum(map(len, spans)) == len(breathless) + 2 * RATE * (len(spans) - 1)
    texts = [openai.audio.transcriptions.create(model=BASE, file=("b.flac", flac(one))).text for one in spans]
    met, rest = [], texts[0]
    for after in texts[1:]:
        found = seam(rest, after)
        met.append(rest[: found.end] + found.marks)
        rest = after[found.start :]
    assert [segment.text for segment in whole.segments] == [*met, rest]
    assert whole.text == join([*met, rest])
    for before, after in itertools.pairwise(whole.segments):
        assert before.end == after.start
    for segment in whole.segments:
        assert segment.text.strip(" ,.") in live.service.prompts.decode(segment.tokens)
    (warning,) = receipt.warnings
    assert "No pause to cut in was found near" in warning
    assert "transcribed twice" in warning
    *deltas, done = openai.audio.transcriptions.create(**asked, stream=True)
    assert "".join(event.delta for event in deltas) == done.text == whole.text


def test_a_stream_says_the_same(openai: OpenAI, long: np.ndarray) -> None:
    for data in (COMMAND.read_bytes(), flac(long)):
        whole = openai.audio.transcriptions.create(model=BASE, file=("a.flac", data))
        *deltas, done = openai.audio.transcriptions.create(model=BASE, file=("a.flac", data), stream=True)
        assert {event.type for event in deltas} == {"transcript.text.delta"}
        assert "".join(event.delta for event in deltas) == whole.text
        assert (done.type, done.text) == ("transcript.text.done", whole.text)
        assert done.usage.model_dump() == whole.usage.model_dump()


async def test_async(async_openai: AsyncOpenAI) -> None:
    whole = await async_openai.audio.transcriptions.create(model="nato", file=COMMAND)
    text = ""
    async for event in await async_openai.audio.transcriptions.create(model="nato", file=COMMAND, stream=True):
        text += event.delta if event.type == "transcript.text.delta" else ""
    assert text == whole.text


@pytest.mark.parametrize(
    ("changed", "param"),
    [
        ({"language": "xx"}, "language"),
        ({"include": ["logprobs"]}, "include[]"),
        ({"chunking_strategy": {"type": "server_vad"}}, "chunking_strategy[type]"),
        ({"response_format": "ass"}, "response_format"),
        ({"response_format": "srt", "stream": True}, "stream"),
        ({"response_format": "vtt", "timestamp_granularities": ["segment"]}, "timestamp_granularities"),
        ({"response_format": "verbose_json", "timestamp_granularities": ["word"]}, "timestamp_granularities[].0"),
        ({"timestamp_granularities": ["segment"]}, "timestamp_granularities"),
        ({"response_format": "text", "stream": True}, "stream"),
        ({"temperature": 9}, "temperature"),
        ({"extra_body": {"langauge": "en"}}, "langauge"),
        ({"file": ("a.txt", b"words, words" * 99)}, None),
    ],
)
def test_what_is_refused(openai: OpenAI, changed: dict[str, Any], param: str | None) -> None:
    with pytest.raises(sdk.BadRequestError) as error:
        openai.audio.transcriptions.create(**({"model": BASE, "file": COMMAND} | changed))
    assert error.value.param == param


async def test_a_file_is_needed(client: httpx.AsyncClient) -> None:
    response = await client.post("/v1/audio/transcriptions", data={"model": "base"})
    assert response.status_code == 400
    assert response.json()["error"]["param"] == "file"
