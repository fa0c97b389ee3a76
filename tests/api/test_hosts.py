"""The names under which a server may be asked."""

import socket
from typing import Any

import httpx
import pytest
from starlette.types import Receive, Scope, Send

from app.api.middleware.allowed_hosts import AllowedHosts, name_of
from tests.api.conftest import Running


async def status(
    host: str | list[str], server: str = "127.0.0.1", path: str = "/adapters", allowed: tuple[str, ...] = (),
    guarded: bool = False,
) -> int:  # fmt: skip
    """What a request with these `Host` headers is answered; 200 where it is passed on."""
    seen: list[Any] = []

    async def passed(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})

    async def send(message: Any) -> None:
        seen.append(message)

    names = [host] if isinstance(host, str) else host
    headers = [(b"host", name.encode("latin-1")) for name in names]
    scope: Any = {"type": "http", "method": "GET", "path": path, "headers": headers, "server": (server, 8000)}
    await AllowedHosts(passed, allowed, guarded)(scope, lambda: None, send)  # type: ignore[arg-type,return-value]
    answered: int = seen[0]["status"]
    return answered


OWN = ["localhost", "LOCALHOST:8000", "localhost.", "app.localhost:1", "127.0.0.1", "127.0.0.1:8833", "[::1]:8000",
       "192.168.7.5:8000", "[fe80::1]", "", socket.gethostname(), f"{socket.gethostname()}:8000".upper()]  # fmt: skip
OTHERS = ["evil.example", "evil.example:8000", "localhost.evil.example", "127.0.0.1.evil.example", "xlocalhost",
          "evil@localhost", "localhost/evil", "127.0.0.1evil", "[evil.example]:1", "::1.evil.example", "ü.example",
          ":80:evil.example"]  # fmt: skip


@pytest.mark.parametrize("host", OWN)
async def test_its_own_names_and_addresses_are_answered(host: str) -> None:
    assert await status(host) == 200
    assert await status(host, allowed=("other.example",), guarded=True) == 200


@pytest.mark.parametrize("host", OTHERS)
async def test_other_names_are_refused_without_keys(host: str) -> None:
    assert await status(host) == 400
    assert await status(["localhost", host]) == 400
    assert await status(host, guarded=True) == 200  # a page has no key
    assert await status(host, allowed=("audio.example",), guarded=True) == 400
    assert await status(host, allowed=("*",)) == 200
    assert await status(host, path="/health") == await status(host, path="/ready") == 200


@pytest.mark.parametrize(
    ("host", "pattern", "expected"),
    [
        ("audio.example:443", "audio.example", 200),
        ("Audio.Example", "AUDIO.example", 200),
        ("a.lan", "*.lan", 200),
        ("lan", "*.lan", 400),
        ("a.lan.evil", "*.lan", 400),
    ],
)
async def test_the_setting(host: str, pattern: str, expected: int) -> None:
    assert await status(host, allowed=(pattern,)) == expected


async def test_the_name_that_the_connection_came_to_is_its_own() -> None:
    assert await status("studio", server="studio") == 200
    assert await status("studio", server="10.0.0.1") == 400


@pytest.mark.parametrize(
    ("host", "name"), [("A.b:80", "a.b"), ("[::1]:80", "::1"), ("[::1]", "::1"), ("a.", "a"), (" a ", "a"), (":80", "")]
)
def test_the_name_in_a_header(host: str, name: str) -> None:
    assert name_of(host) == name


async def test_a_rebound_page_is_told_the_setting(running: Running) -> None:
    rebound = {"Host": "evil.example:8833", "Origin": "http://evil.example:8833", "Sec-Fetch-Site": "same-origin"}
    async with running() as client:
        for path in ("/unload", "/adapters/alpha/select", "/v1/load_lora_adapter"):
            refused = await client.post(path, headers=rebound)
            assert refused.status_code == 400
            assert "OVERTONE_ALLOWED_HOSTS" in refused.text
            assert "evil.example" in refused.text
        assert (await client.post("/unload", headers=rebound)).json()["code"] == "host_not_allowed"
        assert (await client.get("/adapters", headers=rebound)).status_code == 400
        assert (await client.get("/ready", headers=rebound)).status_code == 200
        assert (await client.get("/adapters")).json()["active"] is None
    async with running(api_keys=("user",)) as client:
        key = {"X-API-Key": "user", "Host": "audio.example"}
        assert (await client.get("/adapters", headers=key)).status_code == 200
    async with running(admin_keys=("admin",)) as client:  # anybody may ask
        assert (await client.get("/adapters", headers={"Host": "audio.example"})).status_code == 400
    async with running(allowed_hosts=("audio.example",)) as client:
        assert (await client.get("/adapters", headers={"Host": "audio.example"})).status_code == 200


def test_httpx_sends_the_host_that_it_is_given() -> None:
    assert httpx.Request("GET", "http://a/", headers={"Host": "b"}).headers["host"] == "b"
