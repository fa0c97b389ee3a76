"""`POST /generate`: one prompt, with any number of recordings, for one adapter, a mix or the base model."""

import asyncio
from collections.abc import AsyncIterator
from typing import Annotated, Any

from fastapi import APIRouter, Form, Request

from app.api.audio_input import DecodedAudio, decode_uploads
from app.api.dependencies import Ready, State, Submit
from app.api.disconnect import results
from app.api.load_shedding import SheddingRoute
from app.api.problems import documented, problem_of
from app.api.remembering import Memory
from app.api.schemas.requests import GenerateForm
from app.api.schemas.responses import Answer, answer_of, compact
from app.api.sse import event, event_stream
from app.api.streaming import Generation
from app.engine.request import Token
from app.errors import OvertoneError

router = APIRouter(route_class=SheddingRoute, tags=["generate"])
STREAM_EXAMPLE = """event: token
data: {"id": 374, "text": "go"}

event: done
data: {"id": "req-17", "text": "go forward ten meters", …}
"""
EITHER: dict[str, Any] = {
    "description": "The answer; with `stream=true`, events `token`, then `done` (the whole answer) or `error`.",
    "content": {"text/event-stream": {"example": STREAM_EXAMPLE}},
}
RESPONSES: dict[int | str, dict[str, Any]] = {
    200: EITHER,
    **documented(400, 401, 403, 404, 408, 413, 415, 422, 429, 500, 503, 504),
}


@router.post("/generate", response_model=Answer, response_model_exclude_none=True, responses=RESPONSES)
async def generate(
    form: Annotated[GenerateForm, Form(media_type="multipart/form-data")],
    http: Request,
    state: State,
    service: Ready,
    submitter: Submit,
) -> Any:
    """Ask about recordings, or without any.

    ```sh
    curl localhost:8000/generate -F audio=@clip.wav -F 'prompt=Transcribe the audio.'
    curl localhost:8000/generate -F audio=@clip.wav -F adapter=nato
    curl localhost:8000/generate -F audio=@clip.wav -F adapter=nato:0.7,digits:0.3 -F temperature=0.7 -F seed=1
    curl -N localhost:8000/generate -F audio=@clip.wav -F stream=true
    ```

    Recordings may be wav, flac, ogg, opus, mp3, m4a, mp4 or webm, at any rate; the receipt in `audio` reports
    how they were decoded. Longer ones than the model's window are cut in their pauses; long silence is left out.
    When the client disconnects, the work stops.
    """
    adapters = await asyncio.to_thread(service.adapters.resolve, form.adapter)
    audio = await decode_uploads(state, service, form.audio, max_tokens=service.engine.max_tokens_per_request)
    generation = await submitter.submit(form.generation_input(audio, adapters))
    memory = await Memory.of(state, service, form.audio)
    if form.stream:
        return event_stream(_events(generation, audio, memory, http.state.request_id))
    (done,) = await results(http, generation.done())
    memory.keep(generation, done, audio, http.state.request_id)
    return answer_of(generation, done, audio)


async def _events(generation: Generation, audio: DecodedAudio, memory: Memory, request_id: str) -> AsyncIterator[str]:
    try:
        async for said in generation.events():
            if not isinstance(said, Token):
                memory.keep(generation, said, audio, request_id)
                yield event("done", compact(answer_of(generation, said, audio)))
            elif said.text:
                yield event("token", {"id": said.id, "text": said.text})
    except OvertoneError as error:
        yield event("error", compact(problem_of(error, request_id)))
