"""Transcriptions through the official client: formats, long recordings, streams."""

import io
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

from app.api.openai.transcripts import Joined, join
from tests.api.openai.conftest import BASE, COMMAND, HUMAN, Live

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


@given(st.lists(st.lists(st.text(" a\n", max_size=3), max_size=4), max_size=4))
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


def test_long_audio_has_a_segment_for_each_window(openai: OpenAI, live: Live, long: np.ndarray) -> None:
    whole = openai.audio.transcriptions.create(
        model=BASE, file=("long.flac", flac(long)), response_format="verbose_json"
    )
    windows = np.array_split(long, -(-len(long) // int(live.service.features.window_seconds * 16_000)))
    assert len(whole.segments) == len(windows) >= 2
    alone = [openai.audio.transcriptions.create(model=BASE, file=("part.flac", flac(part))) for part in windows]
    assert [segment.text for segment in whole.segments] == [part.text for part in alone]
    assert whole.text == " ".join(part.text for part in alone)
    assert whole.duration == round(len(long) / 16_000, 3)
    assert whole.segments[0].start == 0
    assert whole.segments[-1].end == whole.duration
    for index, segment in enumerate(whole.segments):
        assert segment.id == index
        assert segment.seek == round(100 * segment.start)
        assert abs(segment.end - segment.start - len(windows[index]) / 16_000) < 0.02
        assert live.service.prompts.decode(segment.tokens) == segment.text
        assert segment.avg_logprob < 0
        text = segment.text.encode()
        assert segment.compression_ratio == len(text) / len(zlib.compress(text))
        assert segment.temperature == 0
    for before, after in zip(whole.segments, whole.segments[1:], strict=False):
        assert before.end == after.start
    usage = openai.audio.transcriptions.create(model=BASE, file=("long.flac", flac(long))).usage
    assert usage.total_tokens == sum(part.usage.total_tokens for part in alone)


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
        ({"response_format": "srt"}, "response_format"),
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
