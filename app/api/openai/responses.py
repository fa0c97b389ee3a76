"""`POST /v1/responses`: a conversation as newer clients of OpenAI's send it. Nothing is stored."""

from collections.abc import AsyncIterator, Callable
from typing import Any

from fastapi import APIRouter, Request, Response

from app.api.dependencies import Ready, State, Submit
from app.api.disconnect import results
from app.api.load_shedding import SheddingRoute
from app.api.openai.asking import Asked, ask
from app.api.openai.call_reader import reader_of
from app.api.openai.errors import documented
from app.api.openai.response_writer import Event, ResponseWriter
from app.api.remembering import Memory
from app.api.schemas.openai.details import details_of, headers
from app.api.schemas.openai.response_answer import ResponseObject
from app.api.schemas.openai.response_request import ResponseRequest
from app.api.sse import event, event_stream
from app.api.streaming import Generation
from app.engine.request import Done, Token
from app.errors import OvertoneError

router = APIRouter(route_class=SheddingRoute, tags=["openai"])
STREAM_EXAMPLE = """event: response.output_text.delta
data: {"type": "response.output_text.delta", "sequence_number": 4, "delta": "go", …}

"""
RESPONSES: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The answer; with `stream`, OpenAI's events, `response.created` to `response.completed`.",
        "content": {"text/event-stream": {"example": STREAM_EXAMPLE}},
    },
    **documented(400, 401, 404, 408, 413, 429, 500, 503, 504),
}


@router.post("/v1/responses", response_model=ResponseObject, responses=RESPONSES)
async def create_response(
    body: ResponseRequest, http: Request, state: State, service: Ready, submitter: Submit, response: Response
) -> Any:
    """Answer as OpenAI's Responses API does; `input` holds the whole conversation, since nothing is stored.

    ```sh
    curl localhost:8000/v1/responses --json '{"model": "base", "input": "Say hello."}'
    ```

    Recordings come as parts of a user's message: `input_audio`, or `input_file` with `file_data`.
    `text.format` with a JSON schema constrains the answer while it is written, and so do tools that must be called.
    """
    most = service.engine.max_tokens_per_request
    limited = body.max_output_tokens is not None
    asked = Asked(body.model, body.messages, body.sampling(most), limited, body.plan, body.answer_schema, field="input")
    generation, audio, unseen = await ask(asked, state, service, submitter)
    details = details_of(audio, [*body.notices, *unseen])
    response.headers.update(headers(details))
    writer = ResponseWriter(body, reader_of(body.plan), details)
    memory = await Memory.of(state, service, audio.uploads)
    ids = (http.state.request_id, writer.id)
    if body.stream:
        events = _events(generation, writer, lambda done: memory.keep(generation, done, audio, *ids))
        return event_stream(events, headers=headers(details))
    (done,) = await results(http, generation.done())
    memory.keep(generation, done, audio, *ids)
    return writer.whole(done)


async def _events(generation: Generation, writer: ResponseWriter, at_end: Callable[[Done], None]) -> AsyncIterator[str]:
    for one in writer.begin():
        yield _sent(one)
    try:
        async for said in generation.events():
            if isinstance(said, Done):
                at_end(said)
            for one in writer.feed(said.text) if isinstance(said, Token) else writer.end(said):
                yield _sent(one)
    except OvertoneError as error:
        for one in writer.fail(error):
            yield _sent(one)


def _sent(one: Event) -> str:
    return event(one["type"], one)
