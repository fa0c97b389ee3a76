"""Keys, scopes and open routes."""

import asyncio
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.routing import BaseRoute

from app.access.keys import KeyRecord, digest, new_key, write_keys
from app.api.middleware.auth import scope_of
from tests.api.conftest import Running, until

USER, ADMIN = {"Authorization": "Bearer user"}, {"X-API-Key": "admin"}
ASK: dict[str, Any] = {"data": {"prompt": "hi", "max_new_tokens": "2"}}
CHANGES = [
    ("POST", "/adapters"),
    ("DELETE", "/adapters/alpha"),
    ("POST", "/adapters/alpha/select"),
    ("POST", "/adapters/alpha/pin"),
    ("POST", "/adapters/alpha/rollback"),
    ("POST", "/unload"),
    ("POST", "/training/jobs"),
    ("DELETE", "/training/jobs/some"),
    ("POST", "/training/jobs/some/resume"),
]


def code(response: httpx.Response) -> tuple[int, str]:
    return response.status_code, response.json().get("code", "")


async def test_keys(running: Running) -> None:
    async with running(api_keys=("other", "user"), admin_keys=("admin",)) as client:
        for path in ("/health", "/ready", "/docs", "/docs/swagger-ui.css", "/openapi.json"):
            assert (await client.get(path)).status_code == 200
        for method, path in [("POST", "/generate"), ("GET", "/adapters"), ("GET", "/metrics"),
                             ("POST", "/docs"), ("GET", "/nowhere"), *CHANGES]:  # fmt: skip
            response = await client.request(method, path)
            assert code(response) == (401, "unauthorized"), path
            assert response.headers["www-authenticate"] == "Bearer"
            wrong = await client.request(method, path, headers={"X-API-Key": "users"})
            assert code(wrong) == (401, "unauthorized"), path
        for headers in (USER, ADMIN, {"X-API-Key": "other"}, {"Authorization": "bearer  admin"}):
            assert (await client.post("/generate", headers=headers, **ASK)).status_code == 200
            assert (await client.get("/adapters", headers=headers)).status_code == 200
        for method, path in CHANGES:
            assert code(await client.request(method, path, headers=USER)) == (403, "forbidden")
        assert (await client.post("/adapters/alpha/select", headers=ADMIN)).status_code == 200
        assert (await client.post("/unload", headers=ADMIN)).status_code == 200
        assert "HTTPBearer" in (await client.get("/openapi.json")).text


@pytest.mark.parametrize(
    ("keys", "change", "ask"),
    [
        ({"api_keys": ("user",)}, {"Authorization": "Bearer user"}, 401),
        ({"admin_keys": ("user",)}, {"Authorization": "Bearer user"}, 200),
    ],
)
async def test_one_kind_of_keys(running: Running, keys: dict[str, Any], change: dict[str, str], ask: int) -> None:
    async with running(**keys) as client:
        assert (await client.post("/unload")).status_code == 401
        assert (await client.post("/unload", headers=change)).status_code == 200
        assert (await client.post("/generate", **ASK)).status_code == ask
        odd = {"X-API-Key": "schlüssel".encode()}
        assert (await client.post("/unload", headers=odd)).status_code == 401


def endpoints(routes: Iterable[BaseRoute]) -> set[tuple[str, str]]:
    """Every method and path that an app answers, those of included routers and mounts as well."""
    found: set[tuple[str, str]] = set()
    for route in routes:
        if included := getattr(route, "original_router", None):
            found |= endpoints(included.routes)
            continue
        path = re.sub(r"\{[^}]*\}", "x", getattr(route, "path"))  # noqa: B009
        found |= {(method, path) for method in getattr(route, "methods", None) or {"GET"}}
    return found


async def test_every_route_but_the_open_ones_asks_for_a_key(running: Running) -> None:
    async with running(admin_keys=("admin",), api_keys=("user",)) as client:
        served = endpoints(client.app.routes)  # type: ignore[attr-defined]
        assert ("POST", "/generate") in served
        assert ("POST", "/training/jobs/x/resume") in served
        for method, path in sorted(served):
            if path in ("/health", "/ready"):
                continue
            if method in ("GET", "HEAD") and re.fullmatch("/|/web.*|/docs(/swagger.*)?|/openapi.json", path):
                continue
            assert scope_of(method, path) is not None, (method, path)
            assert (await client.request(method, path)).status_code == 401, (method, path)


@pytest.mark.parametrize("path", ["/generate", "/v1/chat/completions", "/v1/responses"])
async def test_a_revoked_key_ends_what_it_asked_for(running: Running, tmp_path: Path, path: str) -> None:
    file, made = tmp_path / "keys.json", [new_key(), new_key()]
    records = [KeyRecord(id=one, name="x", sha256=digest(key), scopes=("infer",)) for key, one in made]
    write_keys(file, records)
    ask: dict[str, Any] = {"data": {"prompt": "go on", "max_new_tokens": "900", "stream": "true"}}
    if path.startswith("/v1"):
        messages = [{"role": "user", "content": "go on"}]
        asked = {"input": "go on", "max_output_tokens": 900} if path == "/v1/responses" else {
            "messages": messages, "max_tokens": 900
        }  # fmt: skip
        ask = {"json": {"model": "base", "stream": True} | asked}
    async with running(keys_file=file, max_context=2048) as client:
        (gone, _), (stays, _) = made
        answers = [asyncio.create_task(client.post(path, headers={"X-API-Key": key}, **ask)) for key in (gone, stays)]
        whole = asyncio.create_task(client.post("/generate", headers={"X-API-Key": gone},
                                                data={"prompt": "go on", "max_new_tokens": "900"}))  # fmt: skip
        key = {"X-API-Key": stays}
        await until(lambda: running_now(client, key, 3))
        write_keys(file, records[1:])
        ended, other = await asyncio.gather(*answers)
        assert "revoked" in ended.text.strip().rpartition("\n\n")[2]
        assert "error" in ended.text.strip().rpartition("\n\n")[2]
        assert "event: error" not in other.text
        assert '"error": {' not in other.text
        assert code(await whole) == (401, "unauthorized")
        await until(lambda: running_now(client, key, 0))
        assert (await client.get("/adapters", headers={"X-API-Key": gone})).status_code == 401


async def running_now(client: httpx.AsyncClient, key: dict[str, str], count: int) -> bool:
    told = (await client.get("/ready", headers=key)).json()
    return (told["running"], told["waiting"]) == (count, 0)


@pytest.mark.parametrize(
    ("method", "path", "scope"),
    [
        ("POST", "/generate", "infer"),
        ("POST", "/v1/chat/completions", "infer"),
        ("POST", "/v1/responses", "infer"),
        ("POST", "/v1/audio/translations", "infer"),
        ("GET", "/v1/models", "any"),
        ("POST", "/v1/load_lora_adapter", "adapters"),
        ("POST", "/v1/unload_lora_adapter", "adapters"),
        ("POST", "/unload", "adapters"),
        ("PUT", "/adapters", "adapters"),
        ("GET", "/adapters/x/download", "adapters"),
        ("GET", "/adapters/x", "any"),
        ("GET", "/training/jobs", "train"),
        ("DELETE", "/training/jobs/x", "train"),
        ("POST", "/something/new", "infer"),
        ("POST", "/web/x", "infer"),
        ("POST", "/", "infer"),
        ("GET", "/web/app.js", None),
        ("GET", "/webhooks", "any"),
        ("GET", "/health", None),
        ("GET", "/healthy", "any"),
    ],
)
def test_the_scope_of_a_route(method: str, path: str, scope: str | None) -> None:
    assert scope_of(method, path) == scope


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"Origin": "http://test"}, 200),
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": "http://["}, 403),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "same-site"}, 403),
        ({"Sec-Fetch-Site": "same-origin", "Origin": "https://behind-a-proxy.example"}, 200),
    ],
)
async def test_a_server_without_keys_refuses_pages_of_other_sites(
    client: httpx.AsyncClient, headers: dict[str, str], status: int
) -> None:
    assert (await client.post("/unload", headers=headers)).status_code == status
    assert (await client.get("/adapters", headers=headers)).status_code == 200


async def test_what_an_open_server_trusts_keys_for(running: Running) -> None:
    async with running(api_keys=("user",)) as client:
        headers = {"Authorization": "Bearer user", "Origin": "https://app.example"}
        assert (await client.post("/unload", headers=headers)).status_code == 200


async def test_a_websocket_is_refused(client: httpx.AsyncClient) -> None:
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "websocket", "path": "/generate", "headers": [], "query_string": b"", "state": {}}
    await client.app(scope, None, send)  # type: ignore[attr-defined]
    assert sent == [{"type": "websocket.close", "code": 1008}]
