"""Absent, empty and null are one thing: in every optional field of every route; a required one is said to be empty."""

import json
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from app.api.bodies.form import tidy
from app.api.openai.models import LoadAdapter
from app.api.routes.adapters import PinBody, RollbackBody
from app.api.routes.classify import ClassifyForm
from app.api.schemas.fields import KnownFields
from app.api.schemas.jobs import JobForm, NewJob
from app.api.schemas.openai.chat_request import ChatRequest
from app.api.schemas.openai.response_request import ResponseRequest
from app.api.schemas.openai.transcription_request import TranscriptionForm, TranslationForm
from app.api.schemas.requests import CompareForm, GenerateForm
from app.api.uploads import NewAdapter
from tests.api.conftest import Running, audio, wav

BLANK: list[Any] = [None, "", "  ", " \n\t"]
JSON: list[tuple[type[KnownFields], dict[str, Any]]] = [
    (ChatRequest, {"model": "base", "messages": [{"role": "user", "content": "hi"}]}),
    (ResponseRequest, {"model": "base", "input": "hi"}),
    (NewAdapter, {"name": "x", "source": "y"}),
    (NewJob, {"name": "x", "dataset": "y"}),
    (LoadAdapter, {"lora_name": "x", "lora_path": "y"}),
    (PinBody, {}),
    (RollbackBody, {}),
]
FORMS: list[tuple[type[KnownFields], str, dict[str, Any]]] = [
    (GenerateForm, "/generate", {"prompt": "hi"}),
    (CompareForm, "/compare", {"prompt": "hi", "adapters": "base"}),
    (ClassifyForm, "/classify", {}),
    (TranscriptionForm, "/v1/audio/transcriptions", {"model": "base"}),
    (TranslationForm, "/v1/audio/translations", {"model": "base"}),
    (JobForm, "/training/jobs", {"name": "x"}),
]


def optional(model: type[KnownFields]) -> list[str]:
    return [name for name, info in model.known().items() if not info.is_required()]


def required(model: type[KnownFields]) -> list[str]:
    return [name for name, info in model.known().items() if info.is_required()]


@pytest.mark.parametrize(("model", "base"), JSON, ids=lambda one: getattr(one, "__name__", ""))
def test_json_fields_that_say_nothing_are_absent(model: type[KnownFields], base: dict[str, Any]) -> None:
    plain = model.model_validate(base)
    for name in optional(model):
        if name in base:
            continue
        for empty in (None, "", *(() if name in model.verbatim else BLANK), [], {}):
            assert model.model_validate(base | {name: empty}) == plain, (name, empty)
    assert model.model_validate(base | dict.fromkeys(set(optional(model)) - set(base))) == plain


@pytest.mark.parametrize(("model", "base"), JSON, ids=lambda one: getattr(one, "__name__", ""))
def test_a_required_json_field_that_is_empty_is_said_to_be(model: type[KnownFields], base: dict[str, Any]) -> None:
    for name in required(model):
        for empty in BLANK:
            with pytest.raises(Exception, match=f"{name} is empty; this field is required"):
                model.model_validate(base | {name: empty})


@pytest.mark.parametrize(("model", "path", "base"), FORMS, ids=lambda one: getattr(one, "__name__", ""))
async def test_form_fields_that_say_nothing_are_absent(
    client: httpx.AsyncClient, model: type[KnownFields], path: str, base: dict[str, Any]
) -> None:
    for name in optional(model):
        if name in base:
            continue
        for empty in [""] if name in model.verbatim else ["", "  "]:
            assert tidy([*base.items(), (name, empty)], model) == list(base.items()), name
    for name in required(model):
        rest = [(key, value) for key, value in base.items() if key != name]
        response = await client.post(path, files=[(key, (None, value)) for key, value in [*rest, (name, " ")]])
        assert response.status_code == (400 if path.startswith("/v1") else 422)
        said = response.json().get("detail") or response.json()["error"]["message"]
        assert f"{name} is empty; this field is required" in said


async def test_all_empty_fields_at_once_change_no_answer(client: httpx.AsyncClient) -> None:
    empty = {name: "" for name in optional(GenerateForm) if name not in ("audio", "max_new_tokens")}
    plain = (await client.post("/generate", data={"max_new_tokens": "6"}, files=audio())).json()
    told = (await client.post("/generate", data=empty | {"max_new_tokens": "6"}, files=audio())).json()
    assert (told["text"], told["usage"], told["adapter"]) == (plain["text"], plain["usage"], plain["adapter"])
    silent = dict.fromkeys(optional(TranscriptionForm), "")
    files = {"file": ("a.wav", wav())}
    plain = (await client.post("/v1/audio/transcriptions", data={"model": "base"}, files=files)).json()
    told = (await client.post("/v1/audio/transcriptions", data=silent | {"model": "base"}, files=files)).json()
    assert told == plain


@pytest.mark.parametrize("model", BLANK)
async def test_the_selected_adapter_never_answers_for_an_empty_model(running: Running, model: Any) -> None:
    async with running() as client:
        assert (await client.post("/adapters/alpha/select")).status_code == 200
        body = {"model": model, "max_tokens": 4, "messages": [{"role": "user", "content": "hi"}]}
        response = await client.post("/v1/chat/completions", json=body)
        assert response.status_code == 400
        assert response.json()["error"]["param"] == "model"
        assert response.json()["error"]["message"].startswith("model is empty")
        sent = {"model": model or "", "prompt": ""}
        response = await client.post("/v1/audio/transcriptions", data=sent, files={"file": ("a.wav", wav())})
        assert response.status_code == 400
        assert response.json()["error"]["message"].startswith("model is empty")
        # /generate documents the selected one as its default: empty is absent there
        for adapter in ({}, {"adapter": ""}, {"adapter": " "}):
            said = await client.post("/generate", data={"prompt": "hi", "max_new_tokens": "2"} | adapter)
            assert said.json()["adapter"]["name"] == "alpha"


async def test_an_unset_variable_unloads_nothing(running: Running) -> None:
    async with running() as client:
        await client.post("/adapters/alpha/select")
        for empty in ("", "  "):
            response = await client.post("/unload", json={"adapter": empty})
            assert response.status_code == 422
            assert "adapter is empty; name one, or leave the field out" in response.json()["detail"]
        assert (await client.get("/adapters")).json()["active"] == "alpha"
        for absent in ({"json": {"adapter": None}}, {"json": {}}, {}, {"content": b"null"}):
            headers = {"content-type": "application/json"} if "content" in absent else {}
            assert (await client.post("/unload", headers=headers, **absent)).json()["active"] is None


async def test_names_may_stand_between_blanks(client: httpx.AsyncClient) -> None:
    body = {"model": " alpha ", "max_tokens": 4, "messages": [{"role": "user", "content": "hi"}]}
    plain = await client.post("/v1/chat/completions", json=body | {"model": "alpha"})
    assert (await client.post("/v1/chat/completions", json=body)).json()["choices"] == plain.json()["choices"]


TURN = {"role": "user", "content": "hi"}


@pytest.mark.parametrize("role", ["assistant", "user", "system", "developer"])
@pytest.mark.parametrize(
    "content", [None, "", [], [{"type": "text", "text": ""}], [{"type": "text", "text": None}], "absent"]
)
async def test_an_empty_turn_of_a_history_is_empty(client: httpx.AsyncClient, role: str, content: Any) -> None:
    def history(turn: dict[str, Any]) -> dict[str, Any]:
        return {"model": "base", "max_tokens": 4, "messages": [turn, {"role": "user", "content": "hi"}]}

    empty = {"role": role} if content == "absent" else {"role": role, "content": content}
    plain = await client.post("/v1/chat/completions", json=history({"role": role, "content": ""}))
    response = await client.post("/v1/chat/completions", json=history(empty))
    assert response.status_code == plain.status_code == 200, response.text
    assert response.json()["choices"] == plain.json()["choices"]
    assert response.json()["usage"] == plain.json()["usage"]


@pytest.mark.parametrize("content", [None, "", " \n", [], [{"type": "text", "text": " "}]])
async def test_a_last_turn_that_says_nothing_is_refused(client: httpx.AsyncClient, content: Any) -> None:
    body = {
        "model": "base",
        "messages": [TURN, {"role": "assistant", "content": "x"}, {"role": "user", "content": content}],
    }
    response = await client.post("/v1/chat/completions", json=body)
    assert response.status_code == 400
    assert response.json()["error"]["param"] == "messages.2.content"
    assert "messages.2.content is empty" in response.json()["error"]["message"]
    response = await client.post("/generate", data={"messages": json.dumps([{"role": "user", "content": content}])})
    assert response.status_code == 422
    assert "the last message is empty" in response.json()["detail"]


ANY = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=250, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(name=st.sampled_from([*ChatRequest.known(), *ChatRequest.unsupported]), value=ANY)
async def test_any_value_of_any_field_is_answered_or_refused(client: httpx.AsyncClient, name: str, value: Any) -> None:
    body: dict[str, Any] = {"model": "base", "max_tokens": 2, "messages": [TURN]} | {name: value}
    sent = json.dumps(body).encode("utf-8", "surrogatepass")
    headers = {"content-type": "application/json"}
    response = await client.post("/v1/chat/completions", content=sent, headers=headers)
    assert response.status_code in (200, 400, 404), response.text
    assert response.status_code == 200 or response.json()["error"]["message"]


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    fields=st.lists(
        st.tuples(
            st.sampled_from(sorted(GenerateForm.known())) | st.text(max_size=6),
            st.text(max_size=6) | st.sampled_from(["1", "0.5", "true", "base", "[]", "null", "{}"]),
        ),
        max_size=5,
    )
)
async def test_any_form_is_answered_or_refused(client: httpx.AsyncClient, fields: list[tuple[str, str]]) -> None:
    plain = [(name, (None, value.encode("utf-8", "replace"))) for name, value in fields if name != "audio"]
    response = await client.post("/generate", files=[*plain, *audio()] if plain else audio())
    assert response.status_code in (200, 400, 404, 422), response.text
