"""`POST /v1/chat/completions`: a conversation with recordings, to the base model, an adapter or a mix."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from anyio import to_thread
from fastapi import APIRouter, Request, Response

from app.api.admission import AskingRoute
from app.api.generate import CLIENT_CLOSED_REQUEST
from app.api.hearing import hear
from app.api.openai.completions import ChatCompletion, ChatCompletionChunk, Written
from app.api.openai.details import details_of, headers
from app.api.openai.errors import documented, error_body
from app.api.openai.messages import conversation, recordings
from app.api.openai.models import shares_of
from app.api.openai.requests import ChatRequest
from app.api.sse import DONE, event_stream, message
from app.api.state import AppState, Ready, RequestDesk, State
from app.api.tickets import Disconnected, Question, Ticket, unless_gone
from app.engine.request import Token
from app.errors import OvertoneError, QueueFull
from app.model.grammar import JsonGrammar
from app.service import Service

router = APIRouter(route_class=AskingRoute, tags=["openai"])
RESPONSES: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The answer; with `stream`, chunks as server-sent events, then `[DONE]`.",
        "content": {"text/event-stream": {"example": "data: {…}\n\ndata: [DONE]\n\n"}},
    },
    **documented(400, 401, 404, 408, 413, 429, 500, 503, 504),
}


@router.post("/v1/chat/completions", response_model=ChatCompletion, responses=RESPONSES)
async def create_chat_completion(
    body: ChatRequest, http: Request, state: State, service: Ready, desk: RequestDesk, answer: Response
) -> Any:
    """Continue a conversation, as OpenAI's API does.

    ```sh
    curl localhost:8000/v1/chat/completions --json \\
      '{"model": "base", "messages": [{"role": "user", "content": "Say hello."}]}'
    ```

    Recordings come as parts of a user's message: `input_audio`, or `audio_url` with a data URI.
    `response_format` with a JSON schema constrains the answer while it is written.
    """
    shares = await asyncio.to_thread(shares_of, service, body.model)
    grammar = await _grammar(state, service, body)
    sent = await to_thread.run_sync(recordings, body.messages)
    heard = await hear(state, service, sent, room=service.engine.room)
    question = Question(
        conversation(body.messages, heard.clips),
        shares,
        body.sampling(service.engine.room),
        heard.took_s,
        heard.seconds,
        grammar,
        fit=body.limit is None,
    )
    ticket = await desk.submit(question)
    told = details_of(heard, body.notices)
    answer.headers.update(headers(told))
    written = Written(body.model, service.fingerprint, service.prompts.token_bytes, told)
    if body.stream:
        counted = body.stream_options is not None and body.stream_options.include_usage
        return event_stream(_chunks(ticket, written, counted), headers=headers(told))
    try:
        (end,) = await unless_gone(http, ticket.whole())
    except Disconnected:
        return Response(status_code=CLIENT_CLOSED_REQUEST)
    if isinstance(end, BaseException):
        raise end
    return written.whole(*end, body.logprobs)


async def _grammar(state: AppState, service: Service, body: ChatRequest) -> JsonGrammar | None:
    """Compiled on a worker thread. Raises BadRequest for a schema that cannot be followed, or QueueFull."""
    schema = body.answer_schema
    if schema is None:
        return None
    waiting = state.compilers.statistics().tasks_waiting
    if waiting >= state.settings.max_queue:
        raise QueueFull(f"{waiting} JSON schemas wait to be compiled already; try again shortly.")
    return await to_thread.run_sync(service.grammars.of, schema, limiter=state.compilers)


async def _chunks(ticket: Ticket, written: Written, counted: bool) -> AsyncIterator[str]:
    yield message(_json(written.begin()))
    try:
        async for said in ticket.events():
            if isinstance(said, Token):
                if said.text or said.logprobs:
                    yield message(_json(written.piece(said)))
                continue
            yield message(_json(written.end(said)))
            if counted:
                yield message(_json(written.usage(said)))
    except OvertoneError as error:
        yield message(error_body(error))
    yield DONE


def _json(chunk: ChatCompletionChunk) -> dict[str, Any]:
    """A chunk without what it does not say; `finish_reason` is always there, as OpenAI's clients expect."""
    data = chunk.model_dump(mode="json", exclude_none=True)
    for choice in data["choices"]:
        choice.setdefault("finish_reason", None)
    return data
