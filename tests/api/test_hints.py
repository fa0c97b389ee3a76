"""A hint is never followed into the same refusal, and refusing costs little, whatever was sent."""

import json
import re
import time
from typing import Any

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.api.openai.models import LoadAdapter, UnloadAdapter
from app.api.problems import MOST_REPORTED, InvalidFields
from app.api.routes.adapters import PinBody, RollbackBody, UnloadBody
from app.api.routes.classify import ClassifyForm
from app.api.schemas.fields import KnownFields
from app.api.schemas.jobs import JobForm, NewJob
from app.api.schemas.openai.chat_request import ChatRequest, JsonSchema, ResponseFormat, StreamOptions
from app.api.schemas.openai.messages import AudioUrl, ChatMessage, InputAudio
from app.api.schemas.openai.transcription_request import TranscriptionForm
from app.api.schemas.requests import CompareForm, GenerateForm
from app.api.uploads import NewAdapter

MODELS: list[type[KnownFields]] = [
    AudioUrl, ChatMessage, ChatRequest, ClassifyForm, CompareForm, GenerateForm, InputAudio, JobForm, JsonSchema,
    LoadAdapter, NewAdapter, NewJob, PinBody, ResponseFormat, RollbackBody, StreamOptions, TranscriptionForm,
    UnloadAdapter, UnloadBody,
]  # fmt: skip
NAMES = sorted({name for model in MODELS for name in (*model.known(), *model.hints, *model.model_fields)})


def refusal(model: type[KnownFields], name: str) -> str | None:
    """What a field of this name is refused with, as unknown or as not supported; None where it is neither."""
    try:
        model.refuse_unknown(model.supported({name: "value"}))
    except InvalidFields as error:
        return str(error)
    return None


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.__name__)
def test_every_hint_names_a_field_that_is_accepted(model: type[KnownFields]) -> None:
    refused = {hint: said for hint in set(model.hints.values()) if (said := refusal(model, hint))}
    assert not refused


@settings(max_examples=400)
@given(
    model=st.sampled_from(MODELS),
    name=st.sampled_from(NAMES).flatmap(
        lambda name: st.sampled_from([name, name.upper(), f"{name}s", f"{name}[]", f"{name}[0]", name[1:], name[:-1],
                                      name.replace("_", ""), name.replace("_", "-"), f"my_{name}"])
    ),
)  # fmt: skip
def test_a_hint_is_followed_once(model: type[KnownFields], name: str) -> None:
    said = refusal(model, name)
    for hint in re.findall(r"did you mean '([^']*)'", said or ""):
        assert refusal(model, hint) is None, (name, hint)
    for known in re.findall(r"known: (.*)\.$", said or ""):
        assert all(refusal(model, one) is None for one in known.split(", "))


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.__name__)
def test_values_that_a_refusal_offers_are_accepted(model: type[KnownFields]) -> None:
    for name in getattr(model, "unsupported", {}):
        try:
            model.supported({name: "value that nobody offers"})
        except InvalidFields as error:
            offered = re.findall(r"or send (.*)\.$", str(error))
            for value in offered[0].split(" or ") if offered else []:
                assert model.supported({name: json.loads(value)}) == {}
                assert model.supported({name: value.strip('"')}) == {}  # as a form sends it


@pytest.mark.parametrize("name", ["timestamp_granularities", "timestamp_granularities[0]", "timestamp_granularities[]"])
@pytest.mark.parametrize("value", ["segment", '["segment"]', "segment,segment", ""])
async def test_granularities_in_every_spelling(client: httpx.AsyncClient, name: str, value: str) -> None:
    from tests.api.conftest import wav

    fields = {"model": "base", "response_format": "verbose_json", name: value}
    response = await client.post("/v1/audio/transcriptions", data=fields, files={"file": ("a.wav", wav())})
    assert response.status_code == 200, response.text
    assert response.json()["segments"]
    words = await client.post(
        "/v1/audio/transcriptions", data=fields | {name: "segment,word"}, files={"file": ("a.wav", wav())}
    )
    assert words.status_code == 400
    assert "timestamp_granularities[]" in words.json()["error"]["param"]


async def test_a_hint_of_an_adapter_names_one_that_answers(client: httpx.AsyncClient) -> None:
    for path, field in (("/generate", "adapter"), ("/compare", "adapters")):
        said = (await client.post(path, data={"prompt": "hi", field: "alhpa"})).json()["detail"]
        (hint,) = re.findall(r"did you mean (\w+)\?", said)
        follow = await client.post(path, data={"prompt": "hi", "max_new_tokens": "2", field: hint})
        assert follow.status_code == 200


@pytest.mark.parametrize("count", [20_000, 200_000])
async def test_many_unknown_fields_cost_no_more_than_a_few(client: httpx.AsyncClient, count: int) -> None:
    names = ",".join(f'"max_completion_tok{number:06d}":1' for number in range(count if count < 30_000 else 130_000))
    body = '{"model":"base","messages":[],' + names + "}"
    begun = time.process_time()
    response = await client.post(
        "/v1/chat/completions", content=body.encode(), headers={"content-type": "application/json"}
    )
    assert time.process_time() - begun < 5
    assert response.status_code == 400
    said = response.json()["error"]["message"]
    assert said.count("Unknown field") == MOST_REPORTED
    assert re.search(r"And [\d]+ more\.$", said)
    assert len(response.content) < 4000


async def test_long_names_are_shown_short(client: httpx.AsyncClient) -> None:
    long: dict[str, Any] = {"model": "base", "messages": [{"role": "user", "content": "x"}], "m" * 1_000_000: 1}
    begun = time.process_time()
    for body in (long, {**long, "messages": [{"role": "user", "content": "x", "m" * 1_000_000: 1}]}):
        response = await client.post("/v1/chat/completions", json=body)
        assert response.status_code == 400
        assert len(response.content) < 2000
    response = await client.post("/generate", data={"prompt": "x", "adapter": "a" * 1900})
    assert len(response.content) < 1000
    assert time.process_time() - begun < 5


async def test_many_wrong_values_are_told_in_part(client: httpx.AsyncClient) -> None:
    body = {"model": "base", "messages": [{"role": "nobody", "content": "x"}] * 200}
    response = await client.post("/v1/chat/completions", json=body)
    assert response.status_code == 400
    assert "And 192 more." in response.json()["error"]["message"]
    assert len(response.content) < 4000
