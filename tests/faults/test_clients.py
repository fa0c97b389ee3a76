"""Clients that stop reading, or sending: the server's memory, its pages and everybody else are none the worse.

That work stops when a client leaves: tests/api/test_process.py.
"""

import asyncio
import json
import socket
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

from tests.api.conftest import ask, until
from tests.api.test_process import SCRIPT, Server, up

LONG = {
    "model": "base",
    "messages": [{"role": "user", "content": "go"}],
    "max_tokens": 1900,
    "stream": True,
    "logprobs": True,
    "top_logprobs": 20,  # some 2 kB a token: more than the buffers between server and client hold
}


# Connections whose kernel buffers hold 32 kB, not megabytes, and an engine that takes 38 s for LONG
SMALL_BUFFERS = f"""
import os, socket, time
from app import main
from app.engine.runner import Runner
launch = Runner.launch
Runner.launch = lambda self, chunks: time.sleep(0.02) or launch(self, chunks)
startup = main._Server.startup
async def smaller(self, sockets=None):
    await startup(self, sockets)
    with socket.socket(fileno=os.dup(self.servers[0].sockets[0].fileno())) as same:
        same.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 14)
main._Server.startup = smaller
{SCRIPT}
"""


def holds(server: Server, sockets: set[str]) -> bool:
    """Whether the server has any of these open, each given by its inode."""
    names = set()
    for link in Path(f"/proc/{server.process.pid}/fd").iterdir():
        with suppress(FileNotFoundError):
            names.add(link.readlink().name)
    return bool(names & {f"socket:[{inode}]" for inode in sockets})


def stalled(port: int) -> socket.socket:
    """A connection that has asked, and reads nothing."""
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.connect(("127.0.0.1", port))
    body = json.dumps(LONG).encode()
    head = "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    client.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
    return client


def unread(port: int, client: socket.socket) -> tuple[int, str]:
    """Bytes that the server's side of a connection holds for its client, and that side's inode."""
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        _, local, remote, _, queues, _, _, _, _, inode, *_ = line.split()
        ports = [int(address.partition(":")[2], 16) for address in (local, remote)]
        if ports == [port, client.getsockname()[1]]:
            return int(queues.partition(":")[0], 16), inode
    return 0, ""


async def test_a_client_that_stops_reading(start: Callable[..., Any]) -> None:
    async with start(SMALL_BUFFERS, request_seconds="12") as server:
        await up(server)
        await ask(server.client)  # everything is warm
        memory = server.peak_mb
        with closing(stalled(server.port)) as one, closing(stalled(server.port)) as other:

            async def full() -> bool:
                return all(unread(server.port, client)[0] > 10_000 for client in (one, other))

            async def given_up() -> bool:
                return not holds(server, inodes)

            await until(full)
            inodes = {unread(server.port, client)[1] for client in (one, other)}
            await ask(server.client)  # a neighbour is served meanwhile
            assert all(holds(server, {inode}) for inode in inodes)
            assert await full()
            await server.until_running(0)
            metrics = (await server.client.get("/metrics")).text
            assert "overtone_failures_total 2.0" in metrics  # at their deadline, not because all was said
            assert "overtone_kv_pages_used 0.0" in metrics
            assert server.peak_mb - memory < 60
            await until(given_up)
        await ask(server.client)


IMPATIENT = f"""
from app.api.middleware import body_limit
body_limit.STALL_S = 3.0
{SCRIPT}
"""
FORM = (
    b'--b\r\nContent-Disposition: form-data; name="prompt"\r\n\r\ngo\r\n'
    b'--b\r\nContent-Disposition: form-data; name="max_new_tokens"\r\n\r\n2\r\n--b--\r\n'
)


async def sending(port: int, *pieces: bytes, pause_s: float) -> tuple[bytes, bytes]:
    """Head and body of the answer to a form that comes in pieces, until the server closes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    kind = "Content-Type: multipart/form-data; boundary=b\r\nConnection: close\r\n"
    writer.write(f"POST /generate HTTP/1.1\r\nHost: localhost\r\n{kind}Content-Length: {len(FORM)}\r\n\r\n".encode())
    for piece in pieces:
        writer.write(piece)
        await writer.drain()
        await asyncio.sleep(pause_s)
    head, _, body = (await reader.read()).partition(b"\r\n\r\n")
    writer.close()
    return head, body


async def test_a_client_that_stops_sending_is_told_and_given_up(start: Callable[..., Any]) -> None:
    async with start(IMPATIENT) as server:
        await up(server)
        async with asyncio.timeout(60):
            head, body = await sending(server.port, FORM[:70], pause_s=0)
        assert head.startswith(b"HTTP/1.1 408 ")
        assert b"application/problem+json" in head
        told = json.loads(body)
        assert told["code"] == "upload_stalled"
        assert "for 3 s" in told["detail"]
        await server.until_running(0)
        # slow is not stalled
        pieces = [FORM[at : at + 20] for at in range(0, len(FORM), 20)]
        head, body = await sending(server.port, *pieces, pause_s=0.5)
        assert head.startswith(b"HTTP/1.1 200 "), body
        assert 0.5 * len(pieces) > 3
