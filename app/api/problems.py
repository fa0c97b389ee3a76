"""The one mapping of errors to HTTP: RFC 9457 `application/problem+json`, and OpenAI's shape under `/v1`.

`type` and `code` are stable, `detail` says what to do, `instance` is the request's id (also in the
`X-Request-Id` header, and in the server's log for status 500).
"""

import logging
import re
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field, ValidationError
from starlette.exceptions import HTTPException
from starlette.routing import Match
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.api.openai import errors as openai
from app.errors import AdapterRejected, BadRequest, OvertoneError, StorageError, Unauthorized, on_disk

log = logging.getLogger(__name__)
MEDIA_TYPE = "application/problem+json"
MOST_REPORTED = 8  # wrong fields of one request that an error names
_UNKNOWN = "Something broke on the server; its log has more under this request's id."


class Problem(BaseModel):
    """An error as the client reads it."""

    type: str = Field(examples=["urn:overtone:error:adapter_not_found"])
    title: str = Field(examples=["Not Found"])
    status: int = Field(examples=[404])
    detail: str = Field(examples=["There is no adapter 'natto'; did you mean nato?"])
    code: str = Field(description="stable; match on this", examples=["adapter_not_found"])
    instance: str | None = Field(None, description="id of the request", examples=["5f0c6a1d9d3e4c5b"])
    retry_after_s: int | None = Field(None, description="seconds, where the same request may succeed later")
    problems: list[str] | None = Field(None, description="every reason found, for a refused adapter")
    fields: list[str] | None = Field(None, description="the fields that are wrong")


class InvalidFields(BadRequest):
    """Fields of the request are wrong; ``fields`` names them."""

    def __init__(self, message: str, fields: Sequence[str]) -> None:
        self.fields = list(fields)
        super().__init__(message)


def printable(name: str) -> str:
    """A client's name for something, as an error may show it: short, and whole characters alone."""
    return name[:80].encode(errors="backslashreplace").decode()


class ProblemResponse(JSONResponse):
    media_type = MEDIA_TYPE


def problem_of(error: OvertoneError, request_id: str | None = None) -> Problem:
    """An error as a problem. The text of anything but a domain error stays inside: see `Faults`."""
    return Problem(
        type=f"urn:overtone:error:{error.code}",
        title=HTTPStatus(error.status).phrase,
        status=error.status,
        detail=str(error),
        code=error.code,
        instance=request_id,
        retry_after_s=error.retry_after_s,
        problems=error.problems if isinstance(error, AdapterRejected) else None,
        fields=error.fields if isinstance(error, InvalidFields) else None,
    )


def problem_response(error: OvertoneError, scope: Scope, headers: Mapping[str, str] | None = None) -> JSONResponse:
    """The answer to a request that met ``error``."""
    extra = dict(headers or {})
    if error.retry_after_s is not None:
        extra["Retry-After"] = str(error.retry_after_s)
    if isinstance(error, Unauthorized):
        extra["WWW-Authenticate"] = "Bearer"
    if openai.is_openai(scope["path"].removeprefix(scope.get("root_path", ""))):
        fields = error.fields if isinstance(error, InvalidFields) else []
        return JSONResponse(openai.error_body(error, fields), openai.status_of(error), extra)
    body = problem_of(error, scope.get("state", {}).get("request_id"))
    return ProblemResponse(body.model_dump(exclude_none=True), error.status, extra)


def invalid_fields(error: ValidationError) -> InvalidFields:
    """The error of a model that is validated by hand."""
    return _wrong_fields(error.errors(include_url=False))


def documented(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """These errors, for OpenAPI."""
    schema = {"$ref": "#/components/schemas/Problem"}
    return {
        status: {"description": HTTPStatus(status).phrase, "content": {MEDIA_TYPE: {"schema": schema}}}
        for status in statuses
    }


def install(app: FastAPI) -> None:
    """Make every error of ``app`` a problem."""
    app.add_exception_handler(OvertoneError, _domain_error)
    app.add_exception_handler(RequestValidationError, _validation_error)
    app.add_exception_handler(HTTPException, _http_error)


class Faults:
    """ASGI middleware: an unexpected error becomes a 500 without internals, and a line in the log."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = False

        async def watching_send(message: Message) -> None:
            nonlocal started
            started = started or message["type"] == "http.response.start"
            await send(message)

        try:
            with on_disk("The server's disk"):
                await self._app(scope, receive, watching_send)
        except Exception as broken:
            request_id = scope.get("state", {}).get("request_id")
            log.exception("request %s: %s %s failed", request_id, scope["method"], scope["path"])
            if started:
                raise
            error = broken if isinstance(broken, StorageError) else OvertoneError(_UNKNOWN)
            await problem_response(error, scope)(scope, receive, send)


async def _domain_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, OvertoneError)
    return problem_response(error, request.scope)


async def _validation_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    return problem_response(_wrong_fields(error.errors()), request.scope)


def _wrong_fields(entries: Sequence[Any]) -> InvalidFields:
    """The first wrong fields in one sentence each, and how many more there are."""
    lines, fields = [], []
    for entry in entries[:MOST_REPORTED]:
        # ("body", "top_p") -> "top_p"; a list's index says nothing to a client who repeated a field
        path = [str(part) for part in entry["loc"] if part not in ("body", "query", "path", "header")]
        name = printable(".".join(path)) or "body"
        lines.append(f"{name}: {_sentence(entry)}")
        fields.append(name)
    more = [f"And {len(entries) - len(lines)} more."] if len(entries) > len(lines) else []
    return InvalidFields(" ".join(lines + more), fields)


def _sentence(entry: Mapping[str, Any]) -> str:
    """Pydantic's words as a sentence, with the value that was sent."""
    words = str(entry["msg"]).removeprefix("Value error, ").rstrip(".")
    if entry["type"] == "missing":
        return "this field is required."
    value = entry.get("input")
    sent = f" (sent: {value[:40]!r})" if isinstance(value, str) else ""
    return f"{words[:1].lower()}{words[1:]}{sent}."


async def _http_error(request: Request, error: Exception) -> Response:
    """Errors of the framework itself: unknown routes and methods, forms that cannot be parsed."""
    assert isinstance(error, HTTPException)
    if isinstance(error.__cause__, OSError):  # an upload that the disk did not take; `Faults` reports it
        raise error.__cause__
    refusal = OvertoneError(f"{error.detail}.")
    refusal.status, refusal.code = error.status_code, HTTPStatus(error.status_code).name.lower()
    path, headers = request.url.path, error.headers
    if error.status_code == HTTPStatus.NOT_FOUND:
        near = _near(request.scope)
        refusal.args = (f"There is no route {path}; " + (f"did you mean {near}?" if near else "/docs lists them all."),)
    elif error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
        methods = _methods(request.scope)
        headers = {"Allow": ", ".join(methods)}
        if request.method == "OPTIONS" and methods:
            return Response(status_code=HTTPStatus.NO_CONTENT, headers=headers)
        named = " or ".join(method for method in methods if method not in ("HEAD", "OPTIONS"))
        refusal.args = (f"{request.method} is not for {path}; use {named or 'another method'}.",)
    elif error.status_code == HTTPStatus.BAD_REQUEST:
        refusal.code = "malformed_body"
        refusal.args = (f"The form cannot be read: {error.detail.rstrip('.')}. Send it as `curl -F` does.",)
    return problem_response(refusal, request.scope, headers)


def _methods(scope: Scope) -> list[str]:
    """The methods of a request's path."""
    routes = scope["app"].routes
    found = [
        method
        for method in ("GET", "POST", "DELETE")
        if any(route.matches(dict(scope, method=method))[0] is Match.FULL for route in routes)
    ]
    return [*found, *(["HEAD"] if "GET" in found else []), "OPTIONS"] if found else []


def _near(scope: Scope) -> str | None:
    """The route that a client with another idea of the base URL meant: `/v1` too often, or left out."""
    root = scope.get("root_path", "")
    path: str = scope["path"].removeprefix(root)
    bare = re.sub(r"^(/openai|/api)?(/v1)+(?=/)", "", path)
    for near in (f"/v1{bare}", bare):
        if near != path and len(near) <= 100 and _methods(dict(scope, path=root + near)):
            return near
    return None
