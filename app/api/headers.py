"""Security headers on every answer (https://owasp.org/www-project-secure-headers).

TLS is a proxy's business here, and so is Strict-Transport-Security.
"""

import base64
import hashlib
import re

from fastapi.openapi.docs import get_swagger_ui_html
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_COMMON = "object-src 'none'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
CSP = f"default-src 'self'; img-src 'self' blob: data:; media-src 'self' blob: data:; {_COMMON}"
HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Permissions-Policy": "microphone=(self), camera=(), geolocation=(), payment=(), usb=()",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}
DOCS = "/docs"
CDN = "https://cdn.jsdelivr.net"  # where FastAPI's page takes Swagger UI from


class SecurityHeaders:
    """ASGI middleware. A route that sets one of these headers itself keeps its own."""

    def __init__(self, app: ASGIApp, title: str) -> None:
        self._app = app
        self._docs = _docs_policy(title)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        path = scope["path"].removeprefix(scope.get("root_path", ""))

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers.setdefault("Content-Security-Policy", self._docs if path == DOCS else CSP)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        await self._app(scope, receive, send_with_headers)


def _docs_policy(title: str) -> str:
    """Swagger UI comes from a CDN and sets styles; of scripts in the page, only FastAPI's own may run."""
    page = bytes(get_swagger_ui_html(openapi_url="/openapi.json", title=title, oauth2_redirect_url=None).body).decode()
    hashes = " ".join(f"'{_hash(script)}'" for script in re.findall(r"<script>(.*?)</script>", page, re.DOTALL))
    return (
        f"default-src 'self'; script-src {CDN} {hashes}; style-src {CDN} 'unsafe-inline'; "
        f"img-src 'self' data: https://fastapi.tiangolo.com; {_COMMON}"
    )


def _hash(script: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
