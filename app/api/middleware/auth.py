"""Keys, scopes and limits, checked before a body is read. A route is guarded unless it is listed as open."""

from collections.abc import Collection
from typing import Literal

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.access.caller import Caller
from app.access.caller import Scope as KeyScope
from app.access.keyring import Keyring
from app.access.meter import Meter
from app.api.middleware.cors import allows, closed_to
from app.api.open_requests import OpenRequests, Revoked
from app.api.openai.errors import error_body, is_openai
from app.api.problems import problem_of, problem_response
from app.api.sse import event, message
from app.errors import BadRequest, Forbidden, OvertoneError, Unauthorized

OPEN = frozenset({"/health", "/ready"})
# Files of the page and of /docs, which are the same for everyone; what they ask for needs a key like any other request.
# The API's description is among them: Swagger UI and generators of clients fetch it before they have a key.
OPEN_PATHS = frozenset({"/", "/docs", "/openapi.json"})
OPEN_FOLDERS = ("/web/", "/docs/")
ADAPTERS = ("/adapters", "/unload", "/v1/load_lora_adapter", "/v1/unload_lora_adapter")
TRAINING = ("/training",)
FEEDBACK = ("/feedback",)
# They name every adapter, or read what the server's own accounts may read
WHOLE = frozenset({"/metrics", "/status", "/training/datasets", "/v1/load_lora_adapter"})
SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})


def scope_of(method: str, path: str) -> KeyScope | Literal["any"] | None:
    """The scope that a key needs, ``any`` of them, or None where no key is asked for."""
    safe = method in SAFE_METHODS
    if path in OPEN or (safe and (path in OPEN_PATHS or path.startswith(OPEN_FOLDERS))):
        return None
    if _below(path, TRAINING):
        return "train"
    if _below(path, FEEDBACK):  # whoever asks may judge the answer; what others asked is for those who train
        return "infer" if method == "POST" and path.rstrip("/") == FEEDBACK[0] else "train"
    if _below(path, ADAPTERS) and (not safe or path.endswith("/download")):
        return "adapters"
    return "any" if safe else "infer"


class Guard:
    """ASGI middleware: finds the caller (`request.state.caller`), or refuses with 401, 403 or 429."""

    def __init__(
        self,
        app: ASGIApp,
        keyring: Keyring,
        meter: Meter,
        requests: OpenRequests,
        origins: Collection[str] = (),
    ) -> None:
        self._app = app
        self._keyring = keyring
        self._meter = meter
        self._requests = requests
        self._origins = origins

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":  # nothing here speaks WebSocket, and what does would have to ask for a key
            await send({"type": "websocket.close", "code": 1008})
            return
        path = scope["path"].removeprefix(scope.get("root_path", ""))
        needed = scope_of(scope["method"], path)
        passed_on = False
        kind: str | None = None  # of the answer, once it has begun

        async def watching_send(message: Message) -> None:
            nonlocal kind
            if message["type"] == "http.response.start":
                kind = Headers(raw=message["headers"]).get("content-type", "")
            await send(message)

        try:
            caller = self._caller(Headers(scope=scope), needed)
            _check(caller, needed, path)
            scope.setdefault("state", {})["caller"] = caller
            if not self._keyring.guarded:
                _refuse_other_sites(scope, self._origins)
            if needed is None:
                passed_on = True
                await self._app(scope, receive, send)
                return
            with self._meter.admitted(caller):
                passed_on = True
                async with self._requests.of(caller.key):
                    await self._app(scope, receive, watching_send)
        except OvertoneError as error:
            if kind is not None and kind.startswith("text/event-stream") and isinstance(error, Revoked):
                await send({"type": "http.response.body", "body": _last_event(error, scope)})
            elif kind is not None or (passed_on and not isinstance(error, Revoked)):
                raise
            else:
                await problem_response(error, scope)(scope, receive, send)

    def _caller(self, headers: Headers, needed: str | None) -> Caller:
        """Raises Unauthorized for a key that is none, except where none is needed."""
        key = _key_of(headers)
        caller = self._keyring.find(key) if key is not None else None
        if caller is None and key is not None and needed is not None and self._keyring.guarded:
            raise Unauthorized("The key is not one of this server's keys.")
        return caller or self._keyring.anonymous


def _last_event(error: OvertoneError, scope: Scope) -> bytes:
    """The end of a stream of server-sent events that ends early."""
    if is_openai(scope["path"].removeprefix(scope.get("root_path", ""))):
        return message(error_body(error)).encode()
    problem = problem_of(error, scope.get("state", {}).get("request_id"))
    return event("error", problem.model_dump(exclude_none=True)).encode()


def _check(caller: Caller, needed: str | None, path: str) -> None:
    """Raises Unauthorized or Forbidden unless the caller may do this."""
    if needed is not None and not (caller.scopes if needed == "any" else needed in caller.scopes):
        if caller.key == "anonymous":
            raise Unauthorized("This server asks for a key: send `Authorization: Bearer <key>` or `X-API-Key: <key>`.")
        raise Forbidden(f"This key lacks the scope `{needed}`; it has: {', '.join(sorted(caller.scopes))}.")
    if path in WHOLE and not caller.sees_all:
        raise Forbidden(f"{path} is for keys of no tenant that see every adapter.")


def _refuse_other_sites(scope: Scope, origins: Collection[str]) -> None:
    """Raises Forbidden for what a page of another site, none of ``origins``, makes a browser send.

    A server without keys trusts every client that reaches it: that must not be any page that its user opens
    (https://owasp.org/www-community/attacks/csrf).
    """
    headers = Headers(scope=scope)
    if scope["method"] in SAFE_METHODS:
        return
    site, origin = headers.get("sec-fetch-site"), headers.get("origin")
    foreign = site in ("cross-site", "same-site")
    if site is None and origin is not None:
        foreign = origin.partition("://")[2] != headers.get("host")
    if foreign and not (origin and allows(origins, origin)):
        raise closed_to(origin)


def _below(path: str, tops: tuple[str, ...]) -> bool:
    return any(path == top or path.startswith(f"{top}/") for top in tops)


def _key_of(headers: Headers) -> str | None:
    """Raises BadRequest where two headers bring two keys."""
    scheme, _, token = headers.get("authorization", "").partition(" ")
    bearer = token.strip() if scheme.lower() == "bearer" else ""
    plain = headers.get("x-api-key", "").strip()
    if bearer and plain and bearer != plain:
        raise BadRequest("Authorization and X-API-Key bring two different keys; send one of them.")
    return bearer or plain or None
