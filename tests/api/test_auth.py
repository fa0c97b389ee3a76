from typing import Any

import httpx
import pytest

from tests.api.conftest import Running

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
        for path in ("/health", "/ready"):
            assert (await client.get(path)).status_code == 200
        for method, path in [("POST", "/generate"), ("GET", "/adapters"), ("GET", "/metrics"), ("GET", "/docs"),
                             ("GET", "/openapi.json"), ("GET", "/nowhere"), *CHANGES]:  # fmt: skip
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
        assert "HTTPBearer" in (await client.get("/openapi.json", headers=USER)).text


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
