"""What OpenAI's clients send beside the question: taken, used, or refused by name; and what they are told in return."""

import io
import json
import re
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import openai as sdk
import pytest
import soundfile
from openai import AsyncOpenAI, OpenAI

from app.api.openai.languages import language_of, prompt_in
from app.api.problems import InvalidFields
from app.api.schemas.openai.chat_request import ChatRequest
from app.api.schemas.openai.details import MOST_CHARACTERS, OvertoneDetails, headers
from app.api.schemas.openai.response_request import ResponseRequest
from app.api.schemas.openai.transcription_request import TranscriptionForm, TranslationForm
from app.service.generation import DEFAULT_PROMPT
from tests.api.openai.conftest import BASE, COMMAND, Live, heard
from tests.support import tone

HELLO: dict[str, Any] = {"model": "base", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 4}
INFORM: dict[str, Any] = {
    "user": "u1",
    "metadata": {"chat": "42", "title": "x"},
    "safety_identifier": "x",
    "prompt_cache_key": "x",
    "prompt_cache_retention": "24h",
    "store": True,
}
NEUTRAL: dict[str, Any] = {
    "n": 1, "tools": [], "tool_choice": "auto", "parallel_tool_calls": True, "frequency_penalty": 0,
    "presence_penalty": 0.0,
    "logit_bias": {}, "modalities": ["text"], "service_tier": "auto", "verbosity": "medium", "reasoning_effort": "none",
}  # fmt: skip
# what vLLM's clients add in extra_body, with the values that change nothing
EXTRA: dict[str, Any] = {
    "top_k": 0, "repetition_penalty": 1.0, "min_p": 0.0, "length_penalty": 1.0, "ignore_eos": False,
    "stop_token_ids": [],
    "skip_special_tokens": True, "add_generation_prompt": True, "chat_template_kwargs": {"enable_thinking": False},
    "request_id": "r", "include_reasoning": True, "guided_json": None, "priority": 0,
}  # fmt: skip
ASKS = [
    ("n", 2), ("functions", [{"name": "look"}]), ("logit_bias", {"50": 3}),
    ("web_search_options", {}), ("service_tier", "flex"), ("reasoning_effort", "high"), ("verbosity", "low"),
    ("modalities", ["text", "audio"]),
]  # fmt: skip
EXTRA_ASKS = [("min_p", 0.1), ("guided_json", {"type": "object"}), ("chat_template_kwargs", {"enable_thinking": True}),
              ("ignore_eos", True), ("cache_salt", "x"), ("continue_final_message", True), ("best_of", 2)]  # fmt: skip


def loud(kind: str = "FLAC") -> bytes:
    """A recording with a warning: it is clipped."""
    buffer = io.BytesIO()
    soundfile.write(buffer, np.clip(9 * tone(300, 1.0), -1, 1), 16_000, format=kind)
    return buffer.getvalue()


def said(data: bytes) -> Any:
    from base64 import b64encode

    part = {"type": "input_audio", "input_audio": {"data": b64encode(data).decode(), "format": "wav"}}
    return [{"role": "user", "content": [part, {"type": "text", "text": "Transcribe the audio."}]}]


@pytest.mark.parametrize("name", INFORM)
def test_what_only_informs_changes_no_answer(openai: OpenAI, name: str) -> None:
    plain = openai.chat.completions.create(**HELLO)
    told = openai.chat.completions.create(**(HELLO | {name: INFORM[name]}))
    assert told.choices == plain.choices
    assert told.usage == plain.usage


def test_all_that_asks_for_nothing_at_once(openai: OpenAI) -> None:
    plain = openai.chat.completions.create(**HELLO)
    told = openai.chat.completions.create(**(HELLO | INFORM | NEUTRAL), extra_body=EXTRA)
    assert told.choices == plain.choices
    named = [{"role": "user", "content": "hello", "name": "ann"}]
    assert openai.chat.completions.create(**(HELLO | {"messages": named})).choices == plain.choices


@pytest.mark.parametrize(("name", "value"), ASKS + EXTRA_ASKS)
def test_what_asks_for_something_else_is_refused_by_name(openai: OpenAI, name: str, value: Any) -> None:
    with pytest.raises(sdk.BadRequestError, match=f"'{name}' is not supported") as error:
        openai.chat.completions.create(**HELLO, extra_body={name: value})
    assert error.value.code == "unsupported_parameter"
    assert error.value.param == name


def test_every_parameter_of_the_official_client_is_known() -> None:
    """A parameter that OpenAI adds must be decided upon, not met as a misspelling."""
    from openai.types.audio import transcription_create_params as transcription
    from openai.types.chat import completion_create_params as chat

    from app.api.schemas.openai.transcription_request import TranscriptionForm

    known = {*ChatRequest.known(), *ChatRequest.unsupported}
    assert {*chat.CompletionCreateParamsBase.__annotations__, "stream"} <= known
    known = {name.removesuffix("[]") for name in (*TranscriptionForm.known(), *TranscriptionForm.unsupported)}
    assert {*transcription.TranscriptionCreateParamsBase.__annotations__, "stream"} <= known


def test_a_description_of_a_schema_is_taken(openai: OpenAI) -> None:
    schema = {"name": "x", "schema": {"type": "object", "additionalProperties": False}, "strict": True}
    asked: Any = {
        "type": "json_schema",
        "json_schema": schema | {"description": "What LangChain takes from a docstring."},
    }
    answer = openai.chat.completions.create(**(HELLO | {"max_tokens": 20, "response_format": asked}))
    assert json.loads(str(answer.choices[0].message.content)) == {}


def test_stream_options_that_ask_for_nothing(openai: OpenAI) -> None:
    for options in ({}, {"include_usage": False}):
        assert openai.chat.completions.create(**HELLO, stream_options=options).choices


@pytest.mark.parametrize("format", ["mp3", "audio/wav", "MPEG", ".ogg", "x-wav", "webm;codecs=opus", None, ""])
def test_the_bytes_decide_what_a_recording_is(openai: OpenAI, format: str | None) -> None:
    expected = openai.chat.completions.create(model=BASE, messages=heard())
    messages = heard()
    messages[0]["content"][0]["input_audio"]["format"] = format
    assert openai.chat.completions.create(model=BASE, messages=messages).choices == expected.choices


@pytest.mark.parametrize("prefix", ["data:;base64,", "data:audio/flac;base64,", "data:audio/mp3;codecs=x;base64,"])
@pytest.mark.parametrize("way", ["input_audio", "bare input_audio", "audio_url", "bare audio_url"])
def test_data_uris_wherever_a_recording_may_stand(openai: OpenAI, prefix: str, way: str) -> None:
    expected = openai.chat.completions.create(model=BASE, messages=heard())
    data = prefix + heard()[0]["content"][0]["input_audio"]["data"]
    part: Any = {
        "input_audio": {"type": "input_audio", "input_audio": {"data": data, "format": "wav"}},
        "bare input_audio": {"type": "input_audio", "input_audio": data},
        "audio_url": {"type": "audio_url", "audio_url": {"url": data}},
        "bare audio_url": {"type": "audio_url", "audio_url": data},
    }[way]
    content = [part, heard()[0]["content"][1]]
    told = openai.chat.completions.create(model=BASE, messages=[{"role": "user", "content": content}])
    assert told.choices == expected.choices


# -- language ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "name"),
    [
        ("en", "english"), ("EN", "english"), ("en-US", "english"), ("en_us", "english"), ("eng", "english"),
        ("English", "english"), ("de", "german"), ("de-AT", "german"), ("deu", "german"), ("ger", "german"),
        ("German", "german"), ("zh-Hans-CN", "chinese"), ("mandarin", "chinese"), ("yue", "cantonese"),
        ("pt-BR", "portuguese"),
        ("haw", "hawaiian"), ("nb-NO", "norwegian"), ("castilian", "spanish"), ("auto", None), ("AUTO", None),
    ],
)  # fmt: skip
def test_languages_by_code_and_name(value: str, name: str | None) -> None:
    assert language_of(value) == name


@pytest.mark.parametrize("value", ["xx", "klingon", "e", "english please", "12", "äöü", "e" * 90])
def test_what_is_no_language_is_refused_in_words(openai: OpenAI, value: str) -> None:
    with pytest.raises(InvalidFields, match="is no language that is known here; send a code of two letters"):
        language_of(value)
    with pytest.raises(sdk.BadRequestError, match="is no language that is known here") as error:
        openai.audio.transcriptions.create(model=BASE, file=COMMAND, language=value)
    assert error.value.param == "language"


def test_the_language_is_named_to_the_model(openai: OpenAI, plain: httpx.Client) -> None:
    """The default prompt is English and stays; for others it says so, and the same prompt by hand says the same."""
    assert prompt_in("english") == prompt_in(None) == DEFAULT_PROMPT
    base = openai.audio.transcriptions.create(model=BASE, file=COMMAND)
    english = openai.audio.transcriptions.create(model=BASE, file=COMMAND, language="en")
    assert (english.text, english.usage) == (base.text, base.usage)
    german = openai.audio.transcriptions.create(model=BASE, file=COMMAND, language="de")
    by_hand = openai.audio.transcriptions.create(
        model=BASE, file=COMMAND, prompt=f"{DEFAULT_PROMPT} The speech is in German."
    )
    assert (german.text, german.usage) == (by_hand.text, by_hand.usage)
    assert german.usage.input_tokens > base.usage.input_tokens
    for code, name in (("de", "german"), ("auto", "unknown"), ("", "unknown")):
        verbose = openai.audio.transcriptions.create(
            model=BASE, file=COMMAND, language=code, response_format="verbose_json"
        )
        assert verbose.language == name


@pytest.mark.parametrize(("model", "prompt"), [(BASE, "Write down what you hear."), ("command-json", None)])
def test_a_language_that_is_not_used_is_told(openai: OpenAI, model: str, prompt: str | None) -> None:
    fields: dict[str, Any] = {"model": model, "file": COMMAND} | ({"prompt": prompt} if prompt else {})
    plain = openai.audio.transcriptions.create(**fields)
    raw = openai.audio.transcriptions.with_raw_response.create(**fields, language="de")
    told: Any = raw.parse()
    assert told.text == plain.text
    (warning,) = told.overtone["warnings"]
    assert warning.startswith("language: not used")
    assert json.loads(raw.headers["x-overtone-warnings"]) == [warning]


# -- warnings ---------------------------------------------------------------------------------------


def test_warnings_of_a_recording_reach_clients(openai: OpenAI, plain: httpx.Client) -> None:
    receipt = plain.post("/generate", files={"audio": loud()}).json()["audio"][0]
    assert receipt["warnings"]
    raw = openai.chat.completions.with_raw_response.create(model=BASE, messages=said(loud()), max_tokens=4)
    assert json.loads(raw.headers["x-overtone-warnings"]) == receipt["warnings"]
    completion: Any = raw.parse()
    assert completion.overtone == {"audio": [receipt], "warnings": receipt["warnings"]}
    for format in ("json", "verbose_json", "text"):
        answer = openai.audio.transcriptions.with_raw_response.create(
            model=BASE, file=("a.flac", loud()), response_format=format
        )
        assert json.loads(answer.headers["x-overtone-warnings"]) == receipt["warnings"]
        if format != "text":
            assert json.loads(answer.text)["overtone"] == {"audio": [receipt], "warnings": receipt["warnings"]}


def test_warnings_reach_clients_that_stream(openai: OpenAI, plain: httpx.Client) -> None:
    receipt = plain.post("/generate", files={"audio": loud()}).json()["audio"][0]
    expected = {"audio": [receipt], "warnings": receipt["warnings"]}
    with openai.chat.completions.with_streaming_response.create(
        model=BASE, messages=said(loud()), max_tokens=4, stream=True
    ) as response:
        assert json.loads(response.headers["x-overtone-warnings"]) == receipt["warnings"]
    chunks: list[Any] = list(
        openai.chat.completions.create(model=BASE, messages=said(loud()), max_tokens=4, stream=True)
    )
    assert chunks[0].overtone == expected
    assert all("overtone" not in (chunk.model_extra or {}) for chunk in chunks[1:])
    *_, done = openai.audio.transcriptions.create(model=BASE, file=("a.flac", loud()), stream=True)
    extra: Any = done.model_extra
    assert extra["overtone"] == expected


async def test_the_async_client_gets_them_too(async_openai: AsyncOpenAI) -> None:
    answer: Any = await async_openai.chat.completions.create(model=BASE, messages=said(loud()), max_tokens=4)
    assert answer.overtone["warnings"]
    seen: list[Any] = []
    async for chunk in await async_openai.chat.completions.create(
        model=BASE, messages=said(loud()), max_tokens=4, stream=True
    ):
        seen += [chunk.model_extra["overtone"]] if (chunk.model_extra or {}).get("overtone") else []
    assert [one["warnings"] for one in seen] == [answer.overtone["warnings"]]


def test_parameters_that_are_not_done_are_told(openai: OpenAI) -> None:
    named = [{"role": "user", "content": "hello", "name": "ann"}]
    raw = openai.chat.completions.with_raw_response.create(**(HELLO | {"store": True, "messages": named}))
    told: Any = raw.parse()
    assert [warning.partition(":")[0] for warning in told.overtone["warnings"]] == ["store", "messages"]
    assert told.overtone["audio"] == []


def test_without_anything_to_tell_nothing_is_told(openai: OpenAI, live: Live) -> None:
    raw = openai.chat.completions.with_raw_response.create(**HELLO)
    assert "x-overtone-warnings" not in raw.headers
    assert "overtone" not in json.loads(raw.text)
    clean = openai.chat.completions.with_raw_response.create(model=BASE, messages=heard(), max_tokens=4)
    assert "x-overtone-warnings" not in clean.headers
    assert json.loads(clean.text)["overtone"]["audio"][0]["container"] == "FLAC"


def test_the_header_is_ascii_and_bounded() -> None:
    warnings = [f"Größe\r\nX-Evil: 1 录音 {number}" * 3 for number in range(500)]
    (text,) = headers(OvertoneDetails(audio=[], warnings=warnings)).values()
    assert len(text) <= MOST_CHARACTERS
    assert text.isascii()
    assert text.isprintable()
    *kept, last = json.loads(text)
    assert kept == warnings[: len(kept)]
    assert last == f"and {500 - len(kept)} more"
    assert headers(OvertoneDetails(audio=[], warnings=[])) == headers(None) == {}


def test_the_documents_table_has_every_parameter() -> None:
    """Each name stands in the column of its route, and nothing stands there as supported that is refused."""
    text = (Path(__file__).parents[3] / "docs" / "api.md").read_text()
    section = text.partition("### Parameters of OpenAI, supported or refused")[2].partition("\n### ")[0]
    openais, vllms = ([line.strip("| ").split(" | ") for line in part.splitlines() if line.startswith("| `")]
                      for part in section.split("vLLM's parameters:"))  # fmt: skip
    for schema, rows in (
        (ChatRequest, [(row[0], row[1]) for row in openais + vllms]),
        (ResponseRequest, [(row[0], row[2]) for row in openais]),
        (TranscriptionForm, [(row[0], row[-1]) for row in openais + vllms]),
        (TranslationForm, [(row[0], row[-1]) for row in openais + vllms]),
    ):
        told = {name: cell for names, cell in rows for name in re.findall(r"`([a-z_]+)(?:\[\])?`", names)}
        known = {(field.alias or name).removesuffix("[]") for name, field in schema.model_fields.items()}
        limited = {name.removesuffix("[]"): values for name, values in schema.unsupported.items()}
        assert known | limited.keys() == {name for name, cell in told.items() if not cell.startswith("–")}, schema
        for name, values in limited.items():
            if (schema, name) == (TranslationForm, "to_language"):  # the cell begins with transcriptions
                continue
            assert told[name].startswith("refused") == (not values), name
            assert told[name].startswith("accepted") == (values == (True, False)), name
        for name in known - {"timestamp_granularities", "seed", "stream"}:
            assert told[name].startswith(("supported", "accepted", "the same")), name
