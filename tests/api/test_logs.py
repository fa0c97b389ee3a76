"""What a served request leaves in the log, for people and for machines."""

import io
import json
import logging
from collections.abc import Iterator

import pytest

from app import logs
from app.service.adapters import TenantAdapters
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
        monkeypatch.setattr(TenantAdapters, "resolve", lambda *_: 1 / 0)
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


@pytest.mark.parametrize("written", ["text"], indirect=True)
def test_nothing_in_a_message_forges_a_line_or_steers_a_terminal(written: io.StringIO) -> None:
    forged = "2026-11-30 10:00:00,000 INFO overtone: forged"
    odd = f"a\r{forged}\nb\n{forged}\x1b[31m\x9b2J\x85\u2028{forged}\u202e\ud800\x00 é 中 ok"
    log = logging.getLogger("odd")
    log.warning("got %s", odd)
    try:
        raise ValueError(odd)
    except ValueError:
        log.exception("failed for %s", odd)
    lines = written.getvalue().split("\n")[:-1]
    assert [line for line in lines if not line.startswith("  ")] == [lines[0], lines[1]]
    assert len(written.getvalue().splitlines()) == len(lines)
    assert all(line.isprintable() for line in lines)
    assert lines[0].endswith("\\x1b[31m\\x9b2J\\x85\\u2028" + forged + "\\u202e\\ud800\\x00 é 中 ok")
    assert any("ValueError" in line for line in lines[2:])
