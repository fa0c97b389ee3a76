"""Optional API keys. Checked before a body is read; a route is guarded unless it is listed as open."""

import hmac
from collections.abc import Sequence

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from app.api.problems import problem_response
from app.errors import Forbidden, OvertoneError, Unauthorized
from app.settings import Settings

OPEN = frozenset({"/", "/health", "/ready"})
PAGE = "/web/"  # its files, before a key has been entered
# what changes or trains adapters: these paths with any method that is not safe
ADMIN = ("/adapters", "/unload", "/training", "/v1/load_lora_adapter", "/v1/unload_lora_adapter")
SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})


class ApiKeys:
    """ASGI middleware. Without admin keys, an API key is good for everything."""

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self._app = app
        self._api_keys = settings.api_keys
        self._admin_keys = settings.admin_keys

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        error = self._refusal(scope) if scope["type"] == "http" else None
        if error:
            await problem_response(error, scope)(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    def _refusal(self, scope: Scope) -> OvertoneError | None:
        path = scope["path"].removeprefix(scope.get("root_path", ""))
        if path in OPEN or path.startswith(PAGE):
            return None
        admin = bool(self._admin_keys) and scope["method"] not in SAFE_METHODS and _is_admin(path)
        if not admin and not self._api_keys:
            return None
        key = _key_of(Headers(scope=scope))
        if key is None:
            return Unauthorized("This server asks for a key: send `Authorization: Bearer <key>` or `X-API-Key: <key>`.")
        # both are always compared, so that time tells nothing about which keys exist
        is_admin, is_user = _matches(key, self._admin_keys), _matches(key, self._api_keys)
        if is_admin or (is_user and not admin):
            return None
        if is_user:
            return Forbidden("This key may use adapters, but neither change nor train them; use an admin key.")
        return Unauthorized("The key is not one of this server's keys.")


def _is_admin(path: str) -> bool:
    return any(path == prefix or path.startswith(f"{prefix}/") for prefix in ADMIN)


def _key_of(headers: Headers) -> str | None:
    scheme, _, token = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer" and token.strip():
        return token.strip()
    return headers.get("x-api-key") or None


def _matches(key: str, keys: Sequence[str]) -> bool:
    """Constant-time over all keys, without leaving at the first match."""
    found = [hmac.compare_digest(key.encode(), known.encode()) for known in keys]
    return any(found)
