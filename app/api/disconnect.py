"""Waiting for results while the client stays connected. A request whose client has left ends with status 499."""

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

from fastapi import FastAPI, Request, Response

T = TypeVar("T")
CLIENT_CLOSED_REQUEST = 499  # no client reads it; logs and metrics show it


class ClientDisconnected(Exception):
    """The client has closed its connection."""


def install(app: FastAPI) -> None:
    """Answer requests that end with ClientDisconnected."""
    app.add_exception_handler(ClientDisconnected, _closed)


async def results(http: Request, *awaitables: Awaitable[T]) -> list[T]:
    """All results, in order. Raises ClientDisconnected, or the first error once all have ended."""
    ended = await results_or_errors(http, *awaitables)
    for end in ended:
        if isinstance(end, BaseException):
            raise end
    return [end for end in ended if not isinstance(end, BaseException)]


async def results_or_errors(http: Request, *awaitables: Awaitable[T]) -> list[T | BaseException]:
    """All results, in order, with an error in the place of a result. Raises ClientDisconnected.

    The body has been read, so the next message that the server can receive is the disconnect.
    """
    ends = asyncio.gather(*awaitables, return_exceptions=True)
    gone = asyncio.ensure_future(http.receive())
    try:
        await asyncio.wait((ends, gone), return_when=asyncio.FIRST_COMPLETED)
        if not ends.done():
            raise ClientDisconnected
        return ends.result()
    finally:
        ends.cancel()
        gone.cancel()


async def _closed(_: Request, __: Exception) -> Response:
    return Response(status_code=CLIENT_CLOSED_REQUEST)
