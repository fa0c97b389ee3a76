"""The names under which a server may be asked: what keeps other sites' pages away where no key does.

A page can have its own name bound anew to 127.0.0.1 (DNS rebinding); the browser then takes this server for the
page's own site, and only the `Host` header differs.
"""

import socket
from collections.abc import Sequence
from fnmatch import fnmatchcase
from functools import cache
from ipaddress import ip_address

from starlette.types import ASGIApp, Receive, Scope, Send

from app.api.middleware.auth import OPEN
from app.api.problems import problem_response
from app.errors import HostRefused

LOOPBACK = ("localhost", "*.localhost")


class AllowedHosts:
    """ASGI middleware: 400 for a `Host` that is not this server's.

    Allowed are loopback names, IP addresses, which no page can have as its name, the name or address that the
    connection came to, the machine's own name, and the ``allowed`` patterns (`*` in them stands for anything).
    Without patterns, a ``guarded`` server, which needs a key for everything, takes any name. `/health` and `/ready`
    answer under any name.
    """

    def __init__(self, app: ASGIApp, allowed: Sequence[str], guarded: bool) -> None:
        self._app = app
        self._allowed = tuple(pattern.lower() for pattern in (*LOOPBACK, *allowed))
        self._any = guarded and not allowed

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and not self._any and scope["path"] not in OPEN:
            hosts = [value.decode("latin-1") for name, value in scope["headers"] if name == b"host"]
            refused = [host for host in hosts if not self._known(name_of(host), scope)]
            if refused:
                await problem_response(HostRefused(refused[0]), scope)(scope, receive, send)
                return
        await self._app(scope, receive, send)

    def _known(self, name: str, scope: Scope) -> bool:
        server = scope.get("server") or ("", None)
        if name in ("", str(server[0]).lower()) or _is_address(name):
            return True
        return any(fnmatchcase(name, pattern) for pattern in self._allowed) or name in _machine()


def name_of(host: str) -> str:
    """A `Host` header without port, brackets and the dot that ends a full name, in lower case."""
    host = host.strip().lower()
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return (host if host.count(":") > 1 else host.partition(":")[0]).removesuffix(".")


def _is_address(name: str) -> bool:
    try:
        ip_address(name)
    except ValueError:
        return False
    return True


@cache
def _machine() -> tuple[str, ...]:
    return (socket.gethostname().lower(),)
