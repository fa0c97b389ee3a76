"""A client that asks for much and stops reading: the server's memory, its pages and everybody else are none the worse.

That work stops when a client leaves: tests/api/test_process.py.
"""

import asyncio
import json
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.api.conftest import ask, until
from tests.api.test_process import Server, up

LONG = {
    "model": "base",
    "messages": [{"role": "user", "content": "go"}],
    "max_tokens": 1900,
    "stream": True,
    "logprobs": True,
    "top_logprobs": 20,  # some 2 kB a token: more than the buffers between server and client hold
}


def sockets(server: Server) -> int:
    links = Path(f"/proc/{server.process.pid}/fd").iterdir()
    return sum(link.readlink().name.startswith("socket:") for link in links)


def stalled(port: int) -> socket.socket:
    """A connection that has asked, and reads nothing."""
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.connect(("127.0.0.1", port))
    body = json.dumps(LONG).encode()
    head = "POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    client.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
    return client


async def test_a_client_that_stops_reading(start: Callable[..., Any]) -> None:
    async with start(request_seconds="6") as server:
        await up(server)
        await ask(server.client)  # everything is warm, and one connection is kept
        before, memory = sockets(server), server.peak_mb
        clients = [stalled(server.port) for _ in range(4)]
        await server.until_running(4)
        async with asyncio.timeout(4):
            await ask(server.client)  # a neighbour is served meanwhile
        await server.until_running(0)
        metrics = (await server.client.get("/metrics")).text
        assert "overtone_kv_pages_used 0.0" in metrics
        assert sockets(server) == before + 4  # their answers still wait to be read
        assert server.peak_mb - memory < 60

        async def given_up() -> bool:
            return sockets(server) == before

        await until(given_up)
        for client in clients:
            client.close()
        await ask(server.client)
