"""Pages of other origins: closed unless a setting names them; then a browser asks, sends a key, reads the answer."""

from typing import Any

import httpx
import pytest

from app.errors import BadRequest
from app.main import create_app
from app.settings import Settings
from tests.api.conftest import Running

APP = "http://app.example:3000"
ASK: dict[str, Any] = {"model": "base", "max_tokens": 2, "messages": [{"role": "user", "content": "hi"}]}
PREFLIGHT = {
    "Origin": APP,
    "Access-Control-Request-Method": "POST",
    "Access-Control-Request-Headers": "authorization,content-type,x-stainless-os",
}
KEY = {"Authorization": "Bearer user"}


def opened(response: httpx.Response, origin: str = APP) -> bool:
    return response.headers.get("access-control-allow-origin") == origin


async def test_closed_by_default_and_the_refusal_names_the_setting(client: httpx.AsyncClient) -> None:
    asked = await client.options("/v1/chat/completions", headers=PREFLIGHT)
    sent = await client.post("/v1/chat/completions", json=ASK, headers={"Origin": APP})
    for response in (asked, sent):
        assert response.status_code == 403
        assert f"OVERTONE_CORS_ORIGINS={APP}" in response.json()["error"]["message"]
        assert not any(name.startswith("access-control") for name in response.headers)
    native = await client.options("/generate", headers=PREFLIGHT)
    assert (native.status_code, native.json()["code"]) == (403, "forbidden")


async def test_what_the_refusal_says_is_enough(running: Running) -> None:
    """Follow it: the same request from the same page is answered."""
    async with running(cors_origins=(APP,)) as client:
        asked = await client.options("/v1/chat/completions", headers=PREFLIGHT)
        assert asked.status_code == 200
        assert opened(asked)
        assert "POST" in asked.headers["access-control-allow-methods"]
        for header in ("authorization", "content-type", "x-stainless-os"):
            assert header in asked.headers["access-control-allow-headers"].lower()
        sent = await client.post(
            "/v1/chat/completions", json=ASK, headers={"Origin": APP, "Sec-Fetch-Site": "cross-site"}
        )
        assert sent.status_code == 200
        assert opened(sent)
        assert "Origin" in sent.headers["vary"]
        for header in ("X-Request-Id", "X-Overtone-Warnings", "Retry-After", "Content-Disposition"):
            assert header in sent.headers["access-control-expose-headers"]
        assert "access-control-allow-credentials" not in sent.headers
        streamed = await client.post("/v1/chat/completions", json=ASK | {"stream": True}, headers={"Origin": APP})
        assert opened(streamed)
        assert "[DONE]" in streamed.text
        other = await client.post("/v1/chat/completions", json=ASK, headers={"Origin": "http://evil.example"})
        assert other.status_code == 403
        assert "access-control-allow-origin" not in other.headers


async def test_with_keys_a_preflight_needs_none_and_errors_can_be_read(running: Running) -> None:
    async with running(cors_origins=(APP,), api_keys=("user",), admin_keys=("admin",)) as client:
        asked = await client.options("/v1/chat/completions", headers=PREFLIGHT)
        assert asked.status_code == 200
        assert opened(asked)
        for headers, path, status in [
            (KEY, "/v1/chat/completions", 200),
            ({}, "/v1/chat/completions", 401),
            (KEY, "/unload", 403),
            (KEY, "/v1/nowhere", 404),
        ]:
            response = await client.post(path, json=ASK if "chat" in path else None, headers=headers | {"Origin": APP})
            assert response.status_code == status
            assert opened(response), path
        assert opened(await client.get("/v1/models", headers=KEY | {"Origin": APP}))
        foreign = await client.options("/v1/chat/completions", headers=PREFLIGHT | {"Origin": "http://evil.example"})
        assert foreign.status_code == 403
        assert "OVERTONE_CORS_ORIGINS=http://evil.example" in foreign.json()["error"]["message"]


async def test_keys_without_the_setting_close_browsers_out_in_words(running: Running) -> None:
    async with running(api_keys=("user",)) as client:
        asked = await client.options("/v1/chat/completions", headers=PREFLIGHT)
        assert asked.status_code == 403
        assert "OVERTONE_CORS_ORIGINS" in asked.json()["error"]["message"]
        # without an Origin, or a method to ask for, it is no preflight
        assert (await client.options("/v1/chat/completions", headers={"Origin": APP})).status_code == 401


async def test_any_origin_only_with_keys_and_never_with_credentials(running: Running) -> None:
    async with running(cors_origins=("*",), api_keys=("user",)) as client:
        sent = await client.post("/v1/chat/completions", json=ASK, headers=KEY | {"Origin": APP, "Cookie": "a=b"})
        assert sent.status_code == 200
        assert opened(sent, "*")
        assert "access-control-allow-credentials" not in sent.headers
        assert opened(await client.options("/generate", headers=PREFLIGHT), "*")
    with pytest.raises(BadRequest, match="name the origins, or set OVERTONE_API_KEYS"):
        create_app(Settings(_env_file=None, cors_origins=("*",)))


@pytest.mark.parametrize(
    ("written", "origin"),
    [
        ("http://app.example:3000/", APP),
        ("HTTP://App.Example:3000", APP),
        ("https://app.example:443", "https://app.example"),
        ("http://localhost", "http://localhost"),
        ("http://[::1]:8080", "http://[::1]:8080"),
        ("chrome-extension://abcdef", "chrome-extension://abcdef"),
    ],
)
async def test_origins_as_people_write_them(running: Running, written: str, origin: str) -> None:
    async with running(cors_origins=("http://first.example", written)) as client:
        assert opened(await client.get("/health", headers={"Origin": origin}), origin)
        assert (await client.post("/unload", headers={"Origin": origin})).status_code == 200


@pytest.mark.parametrize(
    "written", ["app.example", "http://app.example/path", "null", "http://*.example", "http://a:b@c", ""]
)
def test_what_is_no_origin_is_refused_at_start(written: str) -> None:
    with pytest.raises(BadRequest, match="is no origin; write scheme, host and port"):
        create_app(Settings(_env_file=None, cors_origins=(written,)))


def test_the_setting_is_a_list(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OVERTONE_CORS_ORIGINS", f"{APP}, https://two.example ,")
    assert Settings(_env_file=None).cors_origins == (APP, "https://two.example")


async def test_two_different_keys_in_one_request(running: Running) -> None:
    async with running(api_keys=("user", "other")) as client:
        both = await client.get("/v1/models", headers=KEY | {"X-API-Key": "other"})
        assert both.status_code == 400
        assert "two different keys" in both.json()["error"]["message"]
        assert (await client.get("/v1/models", headers=KEY | {"X-API-Key": "user"})).status_code == 200
        assert (
            await client.get("/v1/models", headers={"Authorization": "Basic eDp5", "X-API-Key": "user"})
        ).status_code == 200
