"""Errors in OpenAI's shape (https://platform.openai.com/docs/guides/error-codes), for every path under `/v1`."""

from collections.abc import Sequence
from http import HTTPStatus
from typing import Any

from pydantic import BaseModel, Field

from app.errors import OvertoneError

# OpenAI's own words where it has some; all other codes are those of /generate
CODES = {
    "adapter_not_found": "model_not_found",
    "prompt_too_long": "context_length_exceeded",
    "queue_full": "rate_limit_exceeded",
    "unauthorized": "invalid_api_key",
}
OTHERS: dict[int | str, str] = {"default": "Any other error"}


class ErrorDetail(BaseModel):
    """The error and the way to correct it."""

    message: str = Field(examples=["There is no adapter 'natto'; did you mean nato?"])
    type: str = Field(examples=["invalid_request_error"])
    param: str | None = Field(description="the first field that is wrong", examples=[None])
    code: str = Field(description="stable; match on this", examples=["model_not_found"])


class ErrorBody(BaseModel):
    """An error as OpenAI's clients read it."""

    error: ErrorDetail


def is_openai(path: str) -> bool:
    """True for a path, without the root path, whose errors have OpenAI's shape."""
    return path == "/v1" or path.startswith("/v1/")


def status_of(error: OvertoneError) -> int:
    """OpenAI says 400 where the rest of this service is more specific."""
    return HTTPStatus.BAD_REQUEST if error.status in (415, 422) else error.status


def error_body(error: OvertoneError, fields: Sequence[str] = ()) -> dict[str, Any]:
    """The body of an error; ``fields`` are those that are wrong."""
    if error.status == HTTPStatus.TOO_MANY_REQUESTS:
        kind = "rate_limit_error"
    else:
        kind = "server_error" if error.status >= 500 else "invalid_request_error"
    param = fields[0] if fields else None
    code = CODES.get(error.code, error.code)
    return ErrorBody(error=ErrorDetail(message=str(error), type=kind, param=param, code=code)).model_dump()


def documented(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """These errors, and whatever else may happen, for OpenAPI."""
    described = {status: HTTPStatus(status).phrase for status in statuses}
    # `default` also keeps FastAPI from documenting a 422 in a shape of its own, which is never sent
    return {status: {"description": words, "model": ErrorBody} for status, words in (described | OTHERS).items()}
