"""The sockets of a server, bound before anything takes time: a port in use is known at once."""

import errno
import os
import socket
from contextlib import suppress

from app.errors import BadRequest, Conflict

BACKLOG = 2048  # connections that wait until the server takes them, as uvicorn has it


def listening_sockets(host: str, port: int) -> list[socket.socket]:
    """A listening socket for each address of ``host``; port 0 is a free one.

    Raises Conflict for a port in use, BadRequest for an address that is not this machine's or a port that it may not
    have.
    """
    try:
        found = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (socket.gaierror, UnicodeError) as error:
        raise BadRequest(f"{host!r} is no address to listen on ({error}); see --host, OVERTONE_HOST.") from None
    opened: list[socket.socket] = []
    refused: OSError | None = None
    for family, kind, protocol, _, address in dict.fromkeys(found):
        try:
            opened.append(_listening(family, kind, protocol, address))
        except OSError as error:
            refused = error
            if error.errno not in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):  # as ::1 where IPv6 is off
                break
    if refused is not None and (not opened or refused.errno not in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)):
        for one in opened:
            one.close()
        raise _refusal(host, port, refused)
    return opened


def _listening(family: int, kind: int, protocol: int, address: object) -> socket.socket:
    opened = socket.socket(family, kind, protocol)
    try:
        if os.name == "posix":
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            with suppress(AttributeError, OSError):
                opened.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        opened.bind(address)  # type: ignore[arg-type]
        opened.listen(BACKLOG)
    except OSError:
        opened.close()
        raise
    return opened


def _refusal(host: str, port: int, error: OSError) -> BadRequest | Conflict:
    if error.errno == errno.EADDRINUSE:
        return Conflict(
            f"Port {port} of {host} is in use by another program, perhaps another server of yours. Stop that one, or "
            f"take another port: --port {port + 1 if port < 65535 else 8000} (OVERTONE_PORT)."
        )
    if error.errno in (errno.EACCES, errno.EPERM):
        return BadRequest(
            f"Port {port} may not be used without more rights; take one above 1023 (--port, OVERTONE_PORT)."
        )
    return BadRequest(f"{host!r} cannot be listened on ({error.strerror}): name an address of this machine (--host).")
