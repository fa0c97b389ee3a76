"""Security headers on every kind of answer, and documentation that still works under its policy."""

import re

import httpx
import pytest

from app.service.adapters import TenantAdapters
from tests.api.conftest import Running, audio


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/health", 200),
        ("GET", "/adapters", 200),
        ("GET", "/metrics", 200),
        ("GET", "/openapi.json", 200),
        ("GET", "/nowhere", 404),
        ("DELETE", "/generate", 405),
        ("POST", "/generate", 422),
    ],
)
async def test_every_answer_has_them(client: httpx.AsyncClient, method: str, path: str, status: int) -> None:
    response = await client.request(method, path)
    assert response.status_code == status
    headers = response.headers
    assert headers["content-security-policy"].startswith("default-src 'self'; img-src 'self' blob: data:; media-src")
    assert "unsafe" not in headers["content-security-policy"]
    assert "frame-ancestors 'none'" in headers["content-security-policy"]
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["x-frame-options"] == "DENY"
    assert headers["referrer-policy"] == "no-referrer"
    assert "microphone=(self)" in headers["permissions-policy"]
    assert len(headers.get_list("content-security-policy")) == 1


async def test_streams_refusals_and_faults_have_them(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    async with running(api_keys=("user",), max_upload_mb=1) as client:
        key = {"X-API-Key": "user"}
        fields = {"prompt": "x", "stream": "true", "max_new_tokens": "2"}
        answers = [
            await client.get("/adapters"),
            await client.post("/generate", data=fields, headers=key),
            await client.post("/generate", files=audio(bytes(2 << 20)), headers=key),
        ]
        monkeypatch.setattr(TenantAdapters, "resolve", lambda *_: 1 / 0)
        answers.append(await client.post("/generate", data={"prompt": "x"}, headers=key))
        assert [answer.status_code for answer in answers] == [401, 200, 413, 500]
        assert all("content-security-policy" in answer.headers for answer in answers)


async def test_the_documentation_loads_nothing_from_elsewhere(client: httpx.AsyncClient) -> None:
    page = await client.get("/docs")
    policy = page.headers["content-security-policy"]
    assert "http" not in policy
    assert "script-src" not in policy  # so that of default-src holds, without inline scripts
    assert policy.startswith("default-src 'self';")
    loads = re.findall(r'(?:src|href)="([^"]+)"', page.text)
    assert len(loads) == 5
    for address in loads:
        assert address.startswith("/")
        assert (await client.get(address)).status_code == 200
    assert (await client.get("/docs/redoc.standalone.js")).status_code == 404


async def test_the_documentation_works_below_a_path_of_a_proxy(running: Running) -> None:
    async with running() as client:
        client._transport.root_path = "/overtone"  # type: ignore[attr-defined]
        page = await client.get("/docs")
        assert set(re.findall(r'(?:src|href)="(/[^/]+)', page.text)) == {"/overtone"}
