"""Constrained answers: they always parse and validate, whatever the model would rather say; hostile schemas."""

import asyncio
import json
import time
from enum import StrEnum
from typing import Any

import httpx
import jsonschema
import pytest
from openai import AsyncOpenAI, OpenAI
from pydantic import BaseModel, Field

from tests.api.conftest import Running
from tests.api.openai.conftest import BASE, heard

WORD = {"type": "string", "maxLength": 12}
SCHEMAS: dict[str, dict[str, Any]] = {
    "command": {
        "type": "object",
        "properties": {
            "intent": {"enum": ["move", "turn", "stop"]},
            "distance": {"type": "integer", "minimum": 0, "maximum": 99},
            "unit": {"type": ["string", "null"], "maxLength": 8},
        },
        "required": ["intent", "distance", "unit"],
        "additionalProperties": False,
    },
    "array": {"type": "array", "items": {"type": "boolean"}, "minItems": 2, "maxItems": 5},
    "tuple": {"type": "array", "prefixItems": [WORD, {"const": 3.5}], "items": False, "minItems": 2},
    "pattern": {"type": "string", "pattern": "^[A-Z]{2}-[0-9]{4}$"},
    "date": {"type": "object", "properties": {"on": {"type": "string", "format": "date"}}, "required": ["on"],
             "additionalProperties": False},
    "number": {"type": "number", "minimum": -1, "maximum": 1, "multipleOf": 0.25},
    "choice": {"anyOf": [{"type": "integer", "minimum": 5, "maximum": 9}, {"type": "object", "properties": {"w": WORD},
               "required": ["w"], "additionalProperties": False}]},
    "references": {
        "$defs": {"leaf": {"type": "object", "properties": {"名": WORD}, "required": ["名"],
                           "additionalProperties": False}},
        "type": "object",
        "properties": {"a": {"$ref": "#/$defs/leaf"},
                       "b": {"type": "array", "items": {"$ref": "#/$defs/leaf"}, "maxItems": 2}},
        "required": ["a", "b"],
        "additionalProperties": False,
    },
}  # fmt: skip
HOW: dict[str, dict[str, Any]] = {
    "greedy": {},
    "sampled": {"temperature": 1.0, "seed": 5},
    "wild": {"temperature": 5.0, "seed": 11, "repetition_penalty": 1.5},
}


def as_format(schema: dict[str, Any]) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema, "strict": True}}


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("name", SCHEMAS)
async def test_answers_validate(client: httpx.AsyncClient, name: str, how: str) -> None:
    """By a model of random weights, which would never write JSON of itself."""
    for adapter in ("base", "alpha"):
        body = {
            "model": adapter,
            "messages": [{"role": "user", "content": "hello"}],
            "response_format": as_format(SCHEMAS[name]),
            **HOW[how],
        }
        answer = (await client.post("/v1/chat/completions", json=body)).json()["choices"][0]
        assert answer["finish_reason"] == "stop", answer
        jsonschema.validate(json.loads(answer["message"]["content"]), SCHEMAS[name])


@pytest.mark.parametrize("model", [BASE, "command-json", "nato"])
def test_a_trained_model_keeps_to_it_too(openai: OpenAI, model: str) -> None:
    for how in HOW.values():
        extra = {"repetition_penalty": how["repetition_penalty"]} if "repetition_penalty" in how else {}
        options: Any = {name: value for name, value in how.items() if name not in extra}
        asked: Any = {"model": model, "messages": heard(), "response_format": as_format(SCHEMAS["command"]), **options}
        whole = openai.chat.completions.create(**asked, extra_body=extra).choices[0]
        jsonschema.validate(json.loads(whole.message.content), SCHEMAS["command"])
        chunks = openai.chat.completions.create(**asked, extra_body=extra, stream=True)
        assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == whole.message.content


def test_what_fits_is_not_bent(openai: OpenAI) -> None:
    asked: Any = {"model": "command-json", "messages": heard()}
    free = openai.chat.completions.create(**asked).choices[0]
    shaped = openai.chat.completions.create(**asked, response_format={"type": "json_object"}).choices[0]
    assert shaped.message.content == free.message.content
    assert isinstance(json.loads(shaped.message.content), dict)


class Unit(StrEnum):
    METERS = "meters"
    DEGREES = "degrees"


class Order(BaseModel):
    """As `client.chat.completions.parse` sends it."""

    distance: int = Field(ge=0, le=999)
    unit: Unit
    urgent: bool | None


async def test_parse(async_openai: AsyncOpenAI) -> None:
    answer = await async_openai.chat.completions.parse(model=BASE, messages=heard(), response_format=Order)
    assert isinstance(answer.choices[0].message.parsed, Order)


def test_an_answer_cut_off_says_so(openai: OpenAI) -> None:
    asked: Any = {"model": "command-json", "messages": heard(), "response_format": {"type": "json_object"}}
    answer = openai.chat.completions.create(**asked, max_tokens=6).choices[0]
    assert answer.finish_reason == "length"
    with pytest.raises(json.JSONDecodeError):
        json.loads(answer.message.content)


def chain(length: int) -> dict[str, Any]:
    """References that overflow a compiler that follows them by recursion."""
    link = '{"type":"object","properties":{"a":{"$ref":"#/$defs/%s"}},"required":["a"]}'
    links = {f"d{i:x}": json.loads(link % f"d{i + 1:x}") for i in range(length)}
    return {"$defs": links | {f"d{length:x}": {"type": "null"}}, "$ref": "#/$defs/d0"}


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "type": ({"type": "strin"}, "strin"),
    "keyword": ({"type": "array", "uniqueItems": True}, "uniqueItems"),
    "not": ({"not": {"type": "string"}}, "not"),
    "look-ahead": ({"type": "string", "pattern": "(?=a)b"}, "look-ahead"),
    "elsewhere": ({"$ref": "http://127.0.0.1:9/schema.json"}, "retriev"),
    "file": ({"$ref": "file:///etc/passwd"}, "retriev"),
    "nowhere": ({"$ref": "#/$defs/missing"}, "missing"),
    "never": ({"enum": []}, "schema"),
    "endless": ({"$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}, "$ref": "#/$defs/a"}, "schema"),
    "intersections": ({"type": "string", "allOf": [{"pattern": f".*x{i}"} for i in range(20)]}, "too long to compile"),
    "chain": (chain(1000), "schema"),
    "product": ({"allOf": [{"anyOf": [{"required": [f"{i}{j}"]} for i in range(30)]} for j in range(20)]}, "schema"),
    "size": ({"enum": ["x" * 70_000]}, "65536 are allowed"),
    "deep": (json.loads('{"items":' * 200 + "{}" + "}" * 200), "schema"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_hostile_schemas_are_refused_in_time(plain: httpx.Client, name: str) -> None:
    schema, words = REFUSED[name]
    body = {"model": BASE, "messages": [{"role": "user", "content": "hi"}], "response_format": as_format(schema)}
    begun = time.monotonic()
    response = plain.post("/v1/chat/completions", json=body | {"max_tokens": 4})
    assert response.status_code == 400, response.text
    assert words in response.json()["error"]["message"]
    assert time.monotonic() - begun < 45  # the trial is niced: two seconds of its CPU take longer on a busy machine
    assert plain.get("/ready").status_code == 200


async def test_a_hostile_schema_holds_nobody_up(async_openai: AsyncOpenAI) -> None:
    schema = as_format(REFUSED["intersections"][0] | {"title": "another"})
    hostile = asyncio.create_task(
        async_openai.chat.completions.with_raw_response.create(
            model=BASE,
            messages=heard(),
            response_format=schema,  # type: ignore[arg-type]
        )
    )
    answer = await async_openai.chat.completions.create(model=BASE, messages=heard())
    assert answer.choices[0].message.content
    assert not hostile.done()
    with pytest.raises(Exception, match="too long to compile"):
        await hostile


async def test_a_schema_that_becomes_too_complex_ends_its_own_request_alone(running: Running) -> None:
    wide = {"type": "object", "properties": {f"k{i}": {"type": "null"} for i in range(2000)}}
    body = {"model": "base", "messages": [{"role": "user", "content": "hi"}], "response_format": as_format(wide)}
    async with running() as client:
        failed = await client.post("/v1/chat/completions", json=body)
        assert failed.status_code == 400, failed.text
        assert "too complex" in failed.json()["error"]["message"]
        streamed = await client.post("/v1/chat/completions", json=body | {"stream": True})
        assert "too complex" in streamed.text
        state = client.app.state.overtone.service.engine  # type: ignore[attr-defined]
        assert state.scheduler.pool.available == state.scheduler.pool.blocks
