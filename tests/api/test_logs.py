"""What a served request leaves in the log, for people and for machines."""

import io
import json
import logging
from collections.abc import Iterator

import pytest

from app import logs
from app.service import Service
from tests.api.conftest import Running, audio


@pytest.fixture
def written(request: pytest.FixtureRequest) -> Iterator[io.StringIO]:
    """The log as a server writes it, in the style of the parameter."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    logs.configure(request.param)
    stream = io.StringIO()
    root.handlers[0].setStream(stream)  # type: ignore[attr-defined]
    yield stream
    root.handlers, root.level = handlers, level


@pytest.mark.parametrize("written", ["json"], indirect=True)
async def test_json_lines_carry_request_key_and_fault(
    running: Running, written: io.StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(api_keys=("hunter2",)) as client:
        key = {"X-API-Key": "hunter2"}
        fine = {"X-Request-Id": "fine-1"} | key
        await client.post("/generate", params={"secret": "in the query"}, data={"max_new_tokens": "1"},
                          files=audio(), headers=fine)  # fmt: skip
        await client.get("/adapters/a%0Ab", headers={"X-Request-Id": "odd-1"} | key)
        await client.get("/health")
        await client.get("/adapters", headers={"X-Request-Id": "none-1"})
        monkeypatch.setattr(Service, "shares", lambda *_: 1 / 0)
        await client.post("/generate", data={"prompt": "x"}, headers={"X-Request-Id": "bad-1"} | key)
    lines = [json.loads(line) for line in written.getvalue().splitlines()]
    access = {line["request_id"]: line for line in lines if line["logger"] == "overtone.access"}
    assert set(access) == {"fine-1", "odd-1", "none-1", "bad-1"}
    assert {name: access["fine-1"][name] for name in ("method", "path", "status", "key", "level")} == {
        "method": "POST", "path": "/generate", "status": 200, "key": "api-1", "level": "info",
    }  # fmt: skip
    assert access["fine-1"]["took_ms"] > 0
    assert access["odd-1"]["path"] == "/adapters/a%0Ab"
    assert access["none-1"]["status"] == 401
    assert "key" not in access["none-1"]
    (fault,) = [line for line in lines if line["level"] == "error"]
    assert fault["request_id"] == "bad-1"
    assert "ZeroDivisionError" in fault["exception"]
    assert "hunter2" not in written.getvalue()
    assert "in the query" not in written.getvalue()


@pytest.mark.parametrize("written", ["text"], indirect=True)
async def test_text_lines_carry_the_request_too(running: Running, written: io.StringIO) -> None:
    async with running() as client:
        await client.get("/adapters", headers={"X-Request-Id": "one-1"})
    (line,) = [line for line in written.getvalue().splitlines() if "overtone.access" in line]
    assert "INFO overtone.access [one-1]: GET /adapters 200 in" in line
