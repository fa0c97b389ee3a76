"""Methods and paths as clients write them: HEAD, OPTIONS, slashes, another idea of the base URL."""

import asyncio
from typing import Any

import httpx
import pytest

from tests.api.conftest import Running
from tests.api.test_auth import endpoints

ASK: dict[str, Any] = {"model": "base", "max_tokens": 2, "messages": [{"role": "user", "content": "hi"}]}


async def test_head_is_get_without_a_body(client: httpx.AsyncClient) -> None:
    paths = [path for method, path in endpoints(client.app.routes) if method == "GET"]  # type: ignore[attr-defined]
    assert {"/health", "/ready", "/v1/models", "/metrics", "/status"} <= set(paths)
    for path in [*paths, "/adapters/alpha", "/adapters/alpha/download", "/v1/models/alpha", "/web/app.js", "/nowhere"]:
        shown, asked = await client.get(path), await client.head(path)
        assert asked.status_code == shown.status_code, path
        assert asked.content == b""
        assert asked.headers["content-type"] == shown.headers["content-type"]
        assert asked.headers["x-request-id"]
    refused = await client.head("/generate")
    assert (refused.status_code, refused.content, refused.headers["allow"]) == (405, b"", "POST, OPTIONS")


async def test_head_of_a_stream_ends(running: Running) -> None:
    async with running() as client:
        endless = asyncio.Event()

        async def follow() -> Any:
            from fastapi.responses import StreamingResponse

            async def lines() -> Any:
                try:
                    while True:
                        yield "data: x\n\n"
                        await asyncio.sleep(0.01)
                finally:
                    endless.set()

            return StreamingResponse(lines(), media_type="text/event-stream")

        client.app.get("/endless")(follow)  # type: ignore[attr-defined]
        async with asyncio.timeout(60):
            response = await client.head("/endless")
            assert (response.status_code, response.content) == (200, b"")
            await endless.wait()


async def test_head_counts_as_its_route(running: Running) -> None:
    async with running() as client:
        await client.head("/health")
        told = (await client.get("/metrics")).text
        assert 'path="/health"' in told or 'route="/health"' in told


@pytest.mark.parametrize(
    ("path", "methods"),
    [
        ("/health", "GET, HEAD, OPTIONS"),
        ("/adapters", "GET, POST, HEAD, OPTIONS"),
        ("/adapters/nobody", "GET, DELETE, HEAD, OPTIONS"),
        ("/v1/chat/completions", "POST, OPTIONS"),
    ],
)
async def test_options_and_refusals_name_every_method(client: httpx.AsyncClient, path: str, methods: str) -> None:
    response = await client.options(path)
    assert (response.status_code, response.headers["allow"], response.content) == (204, methods, b"")
    refused = await client.put(path)
    assert (refused.status_code, refused.headers["allow"]) == (405, methods)
    said = refused.json().get("detail") or refused.json()["error"]["message"]
    for method in methods.split(", "):  # following the refusal is never refused for its method again
        assert method in (*said.split(), "HEAD", "OPTIONS") or f"{method}." in said
        assert (await client.request(method, path)).status_code != 405
    assert (await client.options("/nowhere")).status_code == 404


@pytest.mark.parametrize("path", ["/v1/models/", "/v1//models", "//v1/models", "/v1/models//", "/v1/models"])
async def test_slashes_too_many(client: httpx.AsyncClient, path: str) -> None:
    response = await client.send(client.build_request("GET", httpx.URL("http://test" + path)))
    assert response.status_code == 200
    assert response.json()["data"][0]["id"]
    slashed = await client.post("/v1/chat/completions/", json=ASK)
    assert slashed.status_code == 200
    assert (await client.get("/health/")).json()["status"] == "ok"
    assert (await client.get("/")).text.startswith("<!")


async def test_slashes_open_no_door(running: Running) -> None:
    async with running(api_keys=("user",), admin_keys=("admin",)) as client:
        user = {"X-API-Key": "user"}
        for path in ("/metrics/", "//status", "/adapters/", "/training//jobs/", "/v1/models/"):
            assert (await client.send(client.build_request("GET", httpx.URL("http://test" + path)))).status_code == 401
        for path in ("/unload/", "//unload", "/v1//load_lora_adapter", "/adapters//alpha/select"):
            request = client.build_request("POST", httpx.URL("http://test" + path), headers=user)
            assert (await client.send(request)).status_code == 403, path


@pytest.mark.parametrize(
    ("method", "path", "near"),
    [
        ("POST", "/chat/completions", "/v1/chat/completions"),
        ("POST", "/v1/v1/chat/completions", "/v1/chat/completions"),
        ("POST", "/api/v1/chat/completions", "/v1/chat/completions"),
        ("GET", "/models", "/v1/models"),
        ("POST", "/audio/transcriptions", "/v1/audio/transcriptions"),
        ("POST", "/v1/generate", "/generate"),
        ("GET", "/v1/adapters", "/adapters"),
        ("POST", "/v1/embeddings", None),
    ],
)
async def test_another_base_url_is_recognised(
    client: httpx.AsyncClient, method: str, path: str, near: str | None
) -> None:
    response = await client.request(method, path)
    assert response.status_code == 404
    said = response.json().get("detail") or response.json()["error"]["message"]
    assert (f"did you mean {near}?" if near else "/docs lists them all") in said
    if near:
        assert (await client.request(method, near)).status_code not in (404, 405)


async def test_the_base_url_itself_says_what_it_is(client: httpx.AsyncClient) -> None:
    for path in ("/v1", "/v1/"):
        told = (await client.get(path)).json()
        assert told["name"] == "overtone"
        for route in told["routes"]:
            assert (await client.options(route)).status_code == 204
