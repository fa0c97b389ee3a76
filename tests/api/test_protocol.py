"""Bounds of HTTP itself, through real sockets: headers, waiting for them, connections."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest
import uvicorn
from uvicorn.server import ServerState

from app.api import protocol
from app.api.protocol import HEADER_BYTES, BoundedProtocol

GET = b"GET / HTTP/1.1\r\nHost: x\r\n"


async def echo(scope: Any, receive: Any, send: Any) -> None:
    """Answers with the size of path, headers and body; `/slow` takes a while between two pieces."""
    size, more = 0, True
    while more:
        message = await receive()
        size, more = size + len(message.get("body", b"")), message.get("more_body", False)
    told = {"path": len(scope["path"]), "headers": sum(map(len, sum(scope["headers"], ()))), "body": size}
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": json.dumps(told).encode(), "more_body": True})
    if scope["path"] == "/slow":
        await asyncio.sleep(0.6)
    await send({"type": "http.response.body", "body": b"."})


@asynccontextmanager
async def served() -> AsyncIterator[int]:
    """The port of a server with our protocol over `echo`."""
    config = uvicorn.Config(echo, lifespan="off", ws="none", log_config=None, access_log=False)
    config.load()
    state = ServerState()
    server = await asyncio.get_running_loop().create_server(lambda: BoundedProtocol(config, state, {}), "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]
        for one in list(state.connections):
            one.transport.abort()


async def talk(port: int, *pieces: bytes, pause: float = 0.0, within: float = 60.0) -> bytes:
    """Send the pieces; everything that comes back until the server closes the connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    got = bytearray()

    async def read() -> None:
        with suppress(ConnectionError):
            while piece := await reader.read(1 << 16):
                got.extend(piece)

    try:
        async with asyncio.timeout(within):
            reading = asyncio.create_task(read())
            with suppress(ConnectionError):
                for piece in pieces:
                    writer.write(piece)
                    await writer.drain()
                    await asyncio.sleep(pause)
            await reading
            return bytes(got)
    finally:
        writer.close()


@pytest.mark.parametrize(
    "head",
    [
        b"GET / HTTP/1.1\r\nConnection: close\r\nA: " + b"x" * (HEADER_BYTES - 200) + b"\r\n\r\n",
        b"GET /" + b"x" * (HEADER_BYTES - 200) + b" HTTP/1.1\r\nConnection: close\r\n\r\n",
        b"GET / HTTP/1.1\r\nConnection: close\r\n" + b"A: b\r\n" * 1500 + b"\r\n",
        b"POST / HTTP/1.1\r\nConnection: close\r\nContent-Length: 5000000\r\n\r\n" + b"b" * 5_000_000,
        b"POST / HTTP/1.1\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n" + b"1\r\nb\r\n" * 200_000
        + b"0\r\n\r\n",
    ],
)  # fmt: skip
async def test_what_is_within_the_bounds_is_answered(head: bytes) -> None:
    async with served() as port:
        for size in (len(head), 1000, 70_000):
            pieces = [head[at : at + size] for at in range(0, len(head), size)]
            answer = await talk(port, *pieces)
            assert answer.startswith(b"HTTP/1.1 200"), answer[:200]
        if head.startswith(b"POST"):
            body = head.count(b"b") if b"chunked" not in head else 200_000
            assert f'"body": {body}'.encode() in answer


@pytest.mark.parametrize("size", [1 << 10, 1 << 16, 1 << 20])
@pytest.mark.parametrize(
    ("start", "more"),
    [
        (GET + b"A: ", b"x"),
        (GET, b"A: b\r\n"),
        (GET + b"A: b\r\n", b" folded\r\n"),
        (b"GET /", b"x"),
        (b"GET /?", b"%41"),
        (b"", b"\r\n"),
        (b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nb\r\n0\r\nA: ", b"x"),
        (b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nb\r\n0\r\n", b"A: b\r\n"),
        (b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n1;", b"x"),
    ],
    ids=["value", "many", "folded", "path", "query", "empty lines", "trailer", "trailers", "chunk extension"],
)
async def test_headers_without_an_end_are_refused(start: bytes, more: bytes, size: int) -> None:
    async with served() as port:
        piece = more * (size // len(more))
        begun = time.monotonic()
        answer = await talk(port, start, *[piece] * ((4 << 20) // size + 1))
        assert time.monotonic() - begun < 50
    refusals = [part for part in answer.split(b"HTTP/1.1 ") if part.startswith((b"431", b"400"))]
    assert len(refusals) == 1, answer[:300]
    if refusals[0].startswith(b"431"):
        problem = json.loads(refusals[0].partition(b"\r\n\r\n")[2])
        assert (problem["code"], problem["status"]) == ("headers_too_large", 431)
        assert "64 KB" in problem["detail"]


async def test_a_header_of_100_mb_keeps_nobody_waiting() -> None:
    """The client can send it all and read the answer; meanwhile the loop answers others."""
    worst, over = 0.0, False

    async def watch(port: int) -> None:
        nonlocal worst
        while not over:
            begun = time.monotonic()
            assert (await talk(port, GET + b"Connection: close\r\n\r\n")).startswith(b"HTTP/1.1 200")
            worst = max(worst, time.monotonic() - begun)

    async with served() as port:
        watching = asyncio.create_task(watch(port))
        answer = await talk(port, GET + b"A: ", *[b"x" * (1 << 20)] * 100)
        over = True
        await watching
    assert answer.startswith(b"HTTP/1.1 431")
    assert worst < 2


@pytest.mark.parametrize("pieces", [[], [b"G"] * 20, [b"\r\n"] * 20, [GET, *[b"A: b\r\n"] * 20]])
async def test_headers_that_do_not_come_end_the_connection(
    pieces: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(protocol, "HEADER_S", 0.3)
    async with served() as port:
        begun = time.monotonic()
        assert not (await talk(port, *pieces, pause=0.05)).startswith(b"HTTP/1.1 200")
        assert time.monotonic() - begun < 30
        # the second request of a connection has as long
        begun = time.monotonic()
        answer = await talk(port, GET + b"\r\n", *pieces or [b"G"], pause=0.05)
        assert answer.count(b"HTTP/1.1 200") == 1
        assert time.monotonic() - begun < 30


async def test_what_is_being_answered_or_sent_is_not_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "HEADER_S", 0.2)
    async with served() as port:
        slow = GET.replace(b"/ ", b"/slow ") + b"\r\n"
        assert (await talk(port, slow, b"GET /next HT")).rstrip().endswith(b".\r\n0")  # a next one only begun
        body = b"POST / HTTP/1.1\r\nConnection: close\r\nContent-Length: 10\r\n\r\n"
        assert b'"body": 10' in await talk(port, body, *[b"b"] * 10, pause=0.06)


async def test_the_oldest_idle_connection_makes_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "most_connections", lambda: 3)
    async with served() as port:

        async def connect(words: bytes = b"") -> Callable[[], Any]:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            open_ones.append(writer)
            writer.write(words)
            await asyncio.sleep(0.05)

            async def ended() -> bool:
                with suppress(TimeoutError, ConnectionError):
                    async with asyncio.timeout(0.1):
                        while await reader.read(1000):
                            pass
                        return True
                return False

            return ended

        open_ones: list[asyncio.StreamWriter] = []
        busy = await connect(GET.replace(b"/ ", b"/slow ") + b"\r\n")
        first, second, third = await connect(), await connect(), await connect()
        assert await first()
        assert not await second()
        assert not await third()
        assert not await busy()
        for _ in range(20):  # whoever comes is answered, however many wait
            await connect()
        assert (await talk(port, GET + b"Connection: close\r\n\r\n")).startswith(b"HTTP/1.1 200")
        for writer in open_ones:
            writer.close()
