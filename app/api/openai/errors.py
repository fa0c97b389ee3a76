"""Errors in OpenAI's shape, `{"error": {"message", "type", "param", "code"}}`, for every path under `/v1/`."""

from collections.abc import Sequence
from http import HTTPStatus
from typing import Any

from pydantic import BaseModel, Field
from starlette.types import Scope

from app.errors import AdapterNotFound, OvertoneError, PromptTooLong, Unauthorized

TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
# where OpenAI has a word of its own that clients match on
CODES = {
    AdapterNotFound.code: "model_not_found",
    PromptTooLong.code: "context_length_exceeded",
    Unauthorized.code: "invalid_api_key",
}


class ApiError(BaseModel):
    """What went wrong, and what to do."""

    message: str = Field(examples=["There is no adapter 'natto'; did you mean nato?"])
    type: str = Field(examples=["invalid_request_error"])
    param: str | None = Field(description="the field that is wrong")
    code: str = Field(description="stable; match on this", examples=["model_not_found"])


class ErrorBody(BaseModel):
    """An error as OpenAI's clients read it."""

    error: ApiError


def is_openai(scope: Scope) -> bool:
    path: str = scope["path"].removeprefix(scope.get("root_path", ""))
    return path.startswith("/v1/")


def status_of(error: OvertoneError) -> int:
    """As over all the API, but for wrong fields: OpenAI's clients expect 400."""
    return 400 if error.status == HTTPStatus.UNPROCESSABLE_ENTITY else error.status


def error_body(error: OvertoneError, fields: Sequence[str] | None = None) -> ErrorBody:
    """``fields``: those that are wrong; OpenAI's shape has room for the first."""
    kind = TYPES.get(error.status, "server_error" if error.status >= 500 else "invalid_request_error")
    param = fields[0] if fields else None
    return ErrorBody(error=ApiError(message=str(error), type=kind, param=param, code=CODES.get(error.code, error.code)))


def refusals(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """These errors, as OpenAPI is to tell of them."""
    return {status: {"description": HTTPStatus(status).phrase, "model": ErrorBody} for status in statuses}
