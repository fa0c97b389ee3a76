"""HTTP/1.1 with bounds that uvicorn's protocol lacks: on the size of headers, on waiting for them, on open connections.

httptools keeps what it has of a header's value until the value is whole, and copies it with every further piece:
100 MB of it stopped the event loop for seconds, without a key.
"""

import json
import resource
import time
from asyncio import TimerHandle, Transport
from functools import cache
from http import HTTPStatus

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

HEADER_BYTES = 64 << 10  # request line and headers of one request, trailers among them
_OVERHEAD = 32  # bytes that a header counts beside its name and value: many empty ones take memory too
HEADER_S = 30.0  # from a connection's start, or a request's first byte, until its headers are there
_LINGER_S = 2.0  # how long a refused client may go on sending: a connection that is reset at once loses the answer
_MOST = 1 << 16


class BoundedProtocol(HttpToolsProtocol):
    """Answers 431 to headers beyond `HEADER_BYTES`, closes connections whose headers do not come.

    Half of the process's file descriptors are for connections. Where they are taken, the connection that has waited
    longest without a request gives its own to the newest.
    """

    _pending = 0  # bytes since a part of the message was whole
    _header_bytes = 0
    _too_large = _in_message = _refused = False
    _due: TimerHandle | None = None
    _since = 0.0

    def connection_made(self, transport: Transport) -> None:  # type: ignore[override]
        """Start the timeout for headers; close the oldest idle connection where there are too many."""
        super().connection_made(transport)
        self._since = time.monotonic()
        self._expect_headers()
        if len(self.connections) > most_connections():
            idle = [one for one in self.connections if isinstance(one, BoundedProtocol) and one._idle]
            oldest = min(idle, key=lambda one: one._since, default=self)
            self.connections.discard(oldest)
            oldest.transport.close()

    def data_received(self, data: bytes) -> None:
        """Count what comes, and parse it."""
        if self._refused:
            return
        self._pending += len(data)
        super().data_received(data)
        if self._refused or self.transport.is_closing():
            return
        if self._pending > HEADER_BYTES:
            self._too_large = True
            self.send_400_response("")
        elif self._pending and not self._in_message and self._due is None:
            self._expect_headers()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the timer."""
        self._headers_came()
        super().connection_lost(exc)

    def send_400_response(self, msg: str) -> None:
        """Answer 400, or 431 where the headers are too large, and swallow the rest for a moment."""
        self._refused = True
        self._headers_came()
        self.transport.write(_TOO_LARGE if self._too_large else _INVALID)
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self.loop.call_later(_LINGER_S, self.transport.close)

    def on_message_begin(self) -> None:
        """A request begins."""
        self._pending = self._header_bytes = 0
        if self._due is None:
            self._expect_headers()
        super().on_message_begin()

    def on_header(self, name: bytes, value: bytes) -> None:
        """Raises ValueError for one header too many, which ends the parser's work."""
        self._header_bytes += len(name) + len(value) + _OVERHEAD
        if self._header_bytes > HEADER_BYTES:
            self._too_large = True
            raise ValueError("too many headers")
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """The request is passed on."""
        self._pending = 0
        self._in_message = True
        self._headers_came()
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """A piece of the body, which the app bounds."""
        self._pending = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        """The request is whole."""
        self._pending = 0
        self._in_message = False
        self._since = time.monotonic()
        super().on_message_complete()

    @property
    def _idle(self) -> bool:
        """True while no request is being read or answered."""
        return not self._in_message and (self.cycle is None or self.cycle.response_complete)

    def _expect_headers(self) -> None:
        self._due = self.loop.call_later(HEADER_S, self._give_up)

    def _headers_came(self) -> None:
        if self._due is not None:
            self._due.cancel()
            self._due = None

    def _give_up(self) -> None:
        self._due = None
        if not self._idle:  # the answer to an earlier request is still on its way
            self._expect_headers()
        elif not self.transport.is_closing():
            self.transport.close()


@cache
def most_connections() -> int:
    """Half of the file descriptors that the process may open."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return _MOST if soft == resource.RLIM_INFINITY else max(1, min(_MOST, soft // 2))


def _answer(status: HTTPStatus, code: str, detail: str) -> bytes:
    """A whole answer, a problem as `app.api.problems` writes them."""
    problem = {
        "type": f"urn:overtone:error:{code}",
        "title": status.phrase,
        "status": status.value,
        "detail": detail,
        "code": code,
    }
    body = json.dumps(problem)
    head = (
        f"HTTP/1.1 {status.value} {status.phrase}\r\nContent-Type: application/problem+json\r\n"
        f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    )
    return f"{head}{body}".encode()


_TOO_LARGE = _answer(
    HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE,
    "headers_too_large",
    f"The request's headers exceed {HEADER_BYTES >> 10} KB; send less in headers and in the URL.",
)
_INVALID = _answer(HTTPStatus.BAD_REQUEST, "bad_request", "Invalid HTTP request received.")
