"""What is refused under /v1: by name, with what to do, in OpenAI's shape, and as the client's own exceptions."""

import asyncio
import base64
from pathlib import Path
from typing import Any

import httpx
import openai as sdk
import pytest
from openai import OpenAI

from tests.api.conftest import Running, events_of, wav
from tests.api.openai.conftest import BASE, heard, serving

HELLO: dict[str, Any] = {"model": "base", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 4}
TOOL = {"type": "function", "function": {"name": "look"}}
SCHEMA = {"name": "answer", "schema": {"type": "object"}}


def error_of(response: httpx.Response, status: int) -> dict[str, Any]:
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/json"
    assert response.headers["x-request-id"]
    body: dict[str, Any] = response.json()
    assert set(body) == {"error"}
    error: dict[str, Any] = body["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["message"]
    return error


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("n", 2),
        ("functions", [TOOL["function"]]),
        ("function_call", {"name": "look"}),
        ("frequency_penalty", 0.5),
        ("presence_penalty", -0.5),
        ("logit_bias", {"50": 3}),
        ("modalities", ["text", "audio"]),
        ("audio", {"voice": "alloy", "format": "wav"}),
        ("prediction", {"type": "content", "content": "x"}),
        ("reasoning_effort", "high"),
        ("verbosity", "low"),
        ("service_tier", "flex"),
        ("web_search_options", {}),
    ],
)
def test_unsupported_parameters_are_refused_by_name(openai: OpenAI, name: str, value: Any) -> None:
    with pytest.raises(sdk.BadRequestError, match=f"'{name}'") as error:
        openai.chat.completions.create(**(HELLO | {name: value}))
    assert error.value.param == name
    assert error.value.code == "unsupported_parameter"
    assert error.value.type == "invalid_request_error"


def test_what_says_nothing_is_no_reason_to_refuse(openai: OpenAI) -> None:
    silent: Any = dict(
        n=1, tools=[], tool_choice="auto", frequency_penalty=0, presence_penalty=0.0, logit_bias={}, store=False,
        modalities=["text"], service_tier="auto", user=None, stop=None, seed=None, temperature=None, top_p=None,
        response_format=None, stream_options=None, metadata=None, logprobs=None, parallel_tool_calls=None,
        max_completion_tokens=None,
    )  # fmt: skip
    plain = openai.chat.completions.create(**HELLO)
    assert openai.chat.completions.create(**(HELLO | silent)).choices == plain.choices


def parts(*content: Any, role: str = "user") -> dict[str, Any]:
    return {"messages": [{"role": role, "content": list(content)}]}


def sound(data: str, format: str = "wav") -> dict[str, Any]:
    return {"type": "input_audio", "input_audio": {"data": data, "format": format}}


ENCODED = base64.b64encode(wav()).decode()
BAD: dict[str, tuple[dict[str, Any], str, str]] = {
    "misspelt": ({"temprature": 1}, "temprature", "did you mean 'temperature'"),
    "max_new_tokens": ({"max_new_tokens": 5}, "max_new_tokens", "max_completion_tokens"),
    "no messages": ({"messages": []}, "messages", "at least 1"),
    "messages are words": ({"messages": "hello"}, "messages", "list"),
    "role": ({"messages": [{"role": "robot", "content": "x"}]}, "messages.0.role", "'user'"),
    "last is an answer": ({"messages": [{"role": "assistant", "content": "x"}]}, "messages", "last message"),
    "calls": ({"messages": [{"role": "assistant", "tool_calls": [TOOL]}]}, "messages.0.tool_calls.0.id", "required"),
    "image": (parts({"type": "image_url", "image_url": {"url": "x"}}), "messages.0.content.0", "image_url"),
    "file": (parts({"type": "file", "file": {"file_id": "x"}}), "messages.0.content.0", "'file'"),
    "audio of the system": (parts(sound(ENCODED), role="system"), "messages", "'user'"),
    "web address": (
        parts({"type": "audio_url", "audio_url": {"url": "https://example.org/a.wav"}}),
        "messages.0.content.0.audio_url.audio_url.url",
        "fetches no URL",
    ),
    "file address": (
        parts({"type": "audio_url", "audio_url": {"url": "file:///etc/passwd"}}),
        "messages.0.content.0.audio_url.audio_url.url",
        "fetches no URL",
    ),
    "not base64": (parts(sound("!!!")), "messages.0", "is not base64: '!' at character 1"),
    "not audio": (parts(sound(base64.b64encode(b"hello" * 99).decode())), "", "not audio"),
    "unknown format": (parts(sound(ENCODED, "midi")), "messages.0.content.0.input_audio.input_audio.format", "'wav'"),
    "too many recordings": (parts(*[sound(ENCODED)] * 33), "messages", "32"),
    "reserved": ({"messages": [{"role": "user", "content": "<|im_end|>"}]}, "", "leave it out"),
    "temperature": ({"temperature": -1}, "temperature", "greater"),
    "top_p": ({"top_p": 0}, "top_p", "greater"),
    "max_tokens": ({"max_tokens": 0}, "max_tokens", "greater"),
    "too long an answer": ({"max_tokens": 100_000}, "", "ask for at most"),
    "two limits": ({"max_completion_tokens": 5}, "max_tokens", "differ"),
    "empty stop": ({"stop": [""]}, "stop.0", "at least 1"),
    "stops": ({"stop": ["x"] * 9}, "stop", "8"),
    "top_logprobs": ({"logprobs": True, "top_logprobs": 21}, "top_logprobs", "20"),
    "top_logprobs alone": ({"top_logprobs": 2}, "top_logprobs", "logprobs=true"),
    "stream_options": ({"stream_options": {"include_usage": True}}, "stream_options", "stream=true"),
    "format": ({"response_format": {"type": "xml"}}, "response_format.type", "'json_schema'"),
    "schema missing": ({"response_format": {"type": "json_schema"}}, "response_format", "json_schema"),
    "schema astray": ({"response_format": {"type": "text", "json_schema": SCHEMA}}, "response_format", "json_schema"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
async def test_bad_fields(client: httpx.AsyncClient, name: str) -> None:
    changed, param, words = BAD[name]
    error = error_of(await client.post("/v1/chat/completions", json=HELLO | changed), 400)
    assert words in error["message"]
    assert error["param"] == (param or None)
    assert error["type"] == "invalid_request_error"


async def test_a_prompt_that_is_too_long(client: httpx.AsyncClient) -> None:
    long = {"messages": [{"role": "user", "content": "long " * 500}]}
    response = await client.post("/v1/chat/completions", json=HELLO | long)
    assert error_of(response, 400)["code"] == "context_length_exceeded"


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"[" * 20_000, b'{"model": "\xff"}'])
async def test_bodies_that_are_no_object(client: httpx.AsyncClient, body: bytes) -> None:
    headers = {"content-type": "application/json"}
    error = error_of(await client.post("/v1/chat/completions", content=body, headers=headers), 400)
    assert error["type"] == "invalid_request_error"


async def test_routes_methods_and_sizes(client: httpx.AsyncClient) -> None:
    assert error_of(await client.get("/v1/nothing"), 404)["code"] == "not_found"
    assert "use POST" in error_of(await client.get("/v1/chat/completions"), 405)["message"]
    huge = HELLO | {"messages": [{"role": "user", "content": "x" * (5 << 20)}]}
    assert error_of(await client.post("/v1/chat/completions", json=huge), 413)["code"] == "too_large"
    other = await client.get("/nothing")
    assert other.headers["content-type"] == "application/problem+json"


def test_an_unknown_model(openai: OpenAI) -> None:
    with pytest.raises(sdk.NotFoundError, match="did you mean nato") as error:
        openai.chat.completions.create(**(HELLO | {"model": "natto"}))
    assert error.value.code == "model_not_found"
    with pytest.raises(sdk.NotFoundError, match=BASE):
        openai.chat.completions.create(model="overtone-tyni", messages=heard())
    with pytest.raises(sdk.BadRequestError, match="names an adapter twice"):
        openai.chat.completions.create(model="nato:0.5,nato:0.5", messages=heard())


async def test_keys(running: Running) -> None:
    async with running(api_keys=("user",), admin_keys=("admin",)) as client:
        for headers in ({}, {"Authorization": "Bearer wrong"}):
            response = await client.post("/v1/chat/completions", json=HELLO, headers=headers)
            assert error_of(response, 401)["code"] == "invalid_api_key"
            assert response.headers["www-authenticate"] == "Bearer"
        user = {"Authorization": "Bearer user"}
        assert (await client.post("/v1/chat/completions", json=HELLO, headers=user)).status_code == 200
        for route in ("load", "unload"):
            response = await client.post(f"/v1/{route}_lora_adapter", json={"lora_name": "alpha"}, headers=user)
            assert error_of(response, 403)["code"] == "forbidden"
        admin = {"Authorization": "Bearer admin"}
        response = await client.post("/v1/unload_lora_adapter", json={"lora_name": "alpha"}, headers=admin)
        assert response.status_code == 200


async def test_a_full_queue_and_a_deadline(running: Running) -> None:
    async with running(max_queue=1, max_batch=1) as client:
        long = HELLO | {"max_tokens": 200}
        responses = await asyncio.gather(*(client.post("/v1/chat/completions", json=long) for _ in range(8)))
        refused = [response for response in responses if response.status_code != 200]
        assert refused
        for response in refused:
            error = error_of(response, 429)
            assert (error["code"], error["type"]) == ("rate_limit_exceeded", "rate_limit_error")
            assert response.headers["retry-after"] == "1"
    async with running(request_seconds=0.001) as client:
        response = await client.post("/v1/chat/completions", json=long)
        assert error_of(response, 504)["type"] == "server_error"
        streamed = await client.post("/v1/chat/completions", json=long | {"stream": True})
        blocks = streamed.text.strip().split("\n\n")
        assert '"code": "deadline_exceeded"' in blocks[-2]
        assert blocks[-1] == "data: [DONE]"
        spoken = {"audio": ("a.wav", wav())}
        assert events_of((await client.post("/generate", data={"stream": "true"}, files=spoken)).text)[-1][0] == "error"


def test_a_stream_that_fails_raises_in_the_client(tmp_path: Path) -> None:
    with serving(tmp_path, request_seconds=0.3) as live, OpenAI(base_url=f"{live.url}/v1", api_key="x") as client:
        endless: Any = HELLO | {"model": BASE, "max_tokens": 1900, "temperature": 5, "seed": 7}
        with pytest.raises(sdk.APIError, match="longer than this server allows"):
            list(client.chat.completions.create(**endless, stream=True))
