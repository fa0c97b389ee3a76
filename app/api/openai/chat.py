"""`POST /v1/chat/completions`: a conversation with recordings, to the base model, an adapter or a mix."""

from collections.abc import AsyncIterator, Callable
from typing import Any

from fastapi import APIRouter, Request, Response

from app.api.dependencies import Ready, State, Submit
from app.api.disconnect import results
from app.api.load_shedding import SheddingRoute
from app.api.openai.asking import Asked, ask
from app.api.openai.call_reader import reader_of
from app.api.openai.errors import documented, error_body
from app.api.remembering import Memory
from app.api.schemas.openai.chat_request import ChatRequest
from app.api.schemas.openai.chat_response import ChatAnswer, ChatCompletion, ChatCompletionChunk
from app.api.schemas.openai.details import details_of, headers
from app.api.sse import DONE, event_stream, message
from app.api.streaming import Generation
from app.engine.request import Done, Token
from app.errors import OvertoneError

router = APIRouter(route_class=SheddingRoute, tags=["openai"])
RESPONSES: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The answer; with `stream`, chunks as server-sent events, then `[DONE]`.",
        "content": {"text/event-stream": {"example": "data: {…}\n\ndata: [DONE]\n\n"}},
    },
    **documented(400, 401, 404, 408, 413, 429, 500, 503, 504),
}


@router.post("/v1/chat/completions", response_model=ChatCompletion, responses=RESPONSES)
async def create_chat_completion(
    body: ChatRequest, http: Request, state: State, service: Ready, submitter: Submit, response: Response
) -> Any:
    """Continue a conversation, as OpenAI's API does.

    ```sh
    curl localhost:8000/v1/chat/completions --json \\
      '{"model": "base", "messages": [{"role": "user", "content": "Say hello."}]}'
    ```

    Recordings come as parts of a user's message: `input_audio`, or `audio_url` with a data URI.
    `response_format` with a JSON schema constrains the answer while it is written, and so does `tools` with a
    `tool_choice` that is `required` or names a function.
    """
    most = service.engine.max_tokens_per_request
    asked = Asked(body.model, body.messages, body.sampling(most), body.limit is not None, body.plan, body.answer_schema)
    generation, audio, unseen = await ask(asked, state, service, submitter)
    details = details_of(audio, [*body.notices, *unseen])
    response.headers.update(headers(details))
    chat_answer = ChatAnswer(
        body.model, service.fingerprint, service.prompts.token_bytes, details, reader_of(body.plan)
    )
    memory = await Memory.of(state, service, audio.uploads)
    ids = (http.state.request_id, chat_answer.id)
    if body.stream:
        counted = body.stream_options is not None and body.stream_options.include_usage
        chunks = _chunks(generation, chat_answer, counted, lambda done: memory.keep(generation, done, audio, *ids))
        return event_stream(chunks, headers=headers(details))
    ((tokens, done),) = await results(http, generation.all())
    memory.keep(generation, done, audio, *ids)
    return chat_answer.whole(tokens, done, body.logprobs)


async def _chunks(
    generation: Generation, chat_answer: ChatAnswer, counted: bool, at_end: Callable[[Done], None]
) -> AsyncIterator[str]:
    yield message(_json(chat_answer.begin()))
    try:
        async for event in generation.events():
            if isinstance(event, Token):
                if event.text or event.logprobs:
                    for chunk in chat_answer.pieces(event):
                        yield message(_json(chunk))
                continue
            at_end(event)
            for chunk in chat_answer.end(event):
                yield message(_json(chunk))
            if counted:
                yield message(_json(chat_answer.usage(event)))
    except OvertoneError as error:
        yield message(error_body(error))
    yield DONE


def _json(chunk: ChatCompletionChunk) -> dict[str, Any]:
    """A chunk as JSON without empty fields, except `finish_reason`, which OpenAI's clients expect."""
    data = chunk.model_dump(mode="json", exclude_none=True)
    for choice in data["choices"]:
        choice.setdefault("finish_reason", None)
    return data
