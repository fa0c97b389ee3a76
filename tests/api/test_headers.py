"""Security headers on every kind of answer, and documentation that still works under its policy."""

import base64
import hashlib
import re

import httpx
import pytest

from app.api.headers import CDN
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
        service = client.app.state.overtone.service  # type: ignore[attr-defined]
        monkeypatch.setattr(type(service), "shares", lambda *_: 1 / 0)
        answers.append(await client.post("/generate", data={"prompt": "x"}, headers=key))
        assert [answer.status_code for answer in answers] == [401, 200, 413, 500]
        assert all("content-security-policy" in answer.headers for answer in answers)


async def test_the_documentation_may_run_its_own_script_and_no_other(client: httpx.AsyncClient) -> None:
    page = await client.get("/docs")
    policy = page.headers["content-security-policy"]
    (scripts,) = [part for part in policy.split("; ") if part.startswith("script-src")]
    (inline,) = re.findall(r"<script>(.*?)</script>", page.text, re.DOTALL)
    assert f"'sha256-{base64.b64encode(hashlib.sha256(inline.encode()).digest()).decode()}'" in scripts
    assert "unsafe" not in scripts
    for address in re.findall(r'(?:src|href)="(https://[^/"]+)', page.text):
        assert address in policy
    assert CDN in scripts
