"""Cross-origin requests (CORS): which pages of other origins a browser lets call this server. None, unless set."""

from collections.abc import Collection
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Receive, Scope, Send

from app.api.problems import problem_response
from app.errors import BadRequest, Forbidden

METHODS = ("GET", "HEAD", "POST", "DELETE", "OPTIONS")
EXPOSED = ("X-Request-Id", "X-Overtone-Warnings", "Retry-After", "Content-Disposition", "WWW-Authenticate")
ANY = "*"
_PORTS = {"http": 80, "https": 443}


class Cors:
    """ASGI middleware, outside of `Guard`: a browser asks without a key first whether it may send one.

    Cookies are neither read nor set, so credentials in the sense of CORS are never allowed; a key is a header.
    """

    def __init__(self, app: ASGIApp, origins: Collection[str]) -> None:
        self._app = app
        self._origins = origins
        self._cors = CORSMiddleware(
            app,
            allow_origins=origins,
            allow_methods=METHODS,
            allow_headers=[ANY],
            expose_headers=EXPOSED,
            allow_private_network=True,
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not (origin := Headers(scope=scope).get("origin")):
            await self._app(scope, receive, send)
        elif allows(self._origins, origin):
            await self._cors(scope, receive, send)
        elif scope["method"] == "OPTIONS" and "access-control-request-method" in Headers(scope=scope):
            await problem_response(closed_to(origin), scope, {"Vary": "Origin"})(scope, receive, send)
        else:
            await self._app(scope, receive, send)


def allows(origins: Collection[str], origin: str) -> bool:
    """True where pages of ``origin`` may send requests and read the answers."""
    return ANY in origins or origin.lower() in origins


def closed_to(origin: str | None) -> Forbidden:
    """The refusal of a page's request, with what the operator can do."""
    named = f" ({origin[:200]})" if origin else ""
    wanted = origin[:200] if origin and origin != "null" else "https://app.example"
    return Forbidden(
        f"A page of another site{named} sent this. The operator can allow it with OVERTONE_CORS_ORIGINS={wanted}; or "
        "the page can send it through a proxy of its own origin."
    )


def checked_origins(origins: Collection[str], guarded: bool) -> frozenset[str]:
    """The origins as browsers write them. Raises BadRequest for what is none, and for `*` on a server without keys."""
    if ANY in origins and not guarded:
        raise BadRequest(
            "OVERTONE_CORS_ORIGINS=* would let any page that somebody here opens use this server, which asks for no "
            "key: name the origins, or set OVERTONE_API_KEYS."
        )
    return frozenset(origin if origin == ANY else _origin(origin) for origin in origins)


def _origin(text: str) -> str:
    try:
        parts = urlsplit(text.strip().rstrip("/"))
        port = parts.port
    except ValueError:
        parts, port = urlsplit(""), None
    if not parts.scheme or not parts.hostname or parts.path or parts.query or parts.username or "*" in parts.netloc:
        raise BadRequest(
            f"OVERTONE_CORS_ORIGINS: {text!r} is no origin; write scheme, host and port, as http://app.example:3000."
        )
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return f"{parts.scheme}://{host}" + (f":{port}" if port and port != _PORTS.get(parts.scheme) else "")
