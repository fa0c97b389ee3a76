"""`POST /generate`: one question, about any number of recordings, to one adapter, mix or the base model."""

import asyncio
from collections.abc import AsyncIterator
from typing import Annotated, Any

from fastapi import APIRouter, Form, Request, Response

from app.api.admission import AskingRoute
from app.api.answers import Answer, answer_of, compact
from app.api.forms import GenerateForm
from app.api.hearing import Heard, hear
from app.api.problems import documented, problem_of
from app.api.sse import event, event_stream
from app.api.state import Ready, RequestDesk, State
from app.api.tickets import Disconnected, Question, Ticket, unless_gone
from app.engine.request import Token
from app.errors import OvertoneError

router = APIRouter(route_class=AskingRoute, tags=["generate"])
CLIENT_CLOSED_REQUEST = 499  # nobody reads it; it shows in logs and metrics
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
    desk: RequestDesk,
) -> Any:
    """Ask about recordings, or without any.

    ```sh
    curl localhost:8000/generate -F audio=@clip.wav -F 'prompt=Transcribe the audio.'
    curl localhost:8000/generate -F audio=@clip.wav -F adapter=nato
    curl localhost:8000/generate -F audio=@clip.wav -F adapter=nato:0.7,digits:0.3 -F temperature=0.7 -F seed=1
    curl -N localhost:8000/generate -F audio=@clip.wav -F stream=true
    ```

    Recordings may be wav, flac, ogg, opus, mp3, m4a, mp4 or webm, at any rate; the receipt in `audio` tells
    what was heard. Longer ones than the model's window are cut in their pauses; long silence is left out.
    When the client disconnects, the work stops.
    """
    form.turns()  # refuse what is wrong before the work begins
    shares = await asyncio.to_thread(service.shares, form.adapter)
    heard = await hear(state, service, form.audio, room=service.engine.room)
    question = Question(form.conversation(heard.clips, shares), shares, form.sampling(), heard.took_s, heard.seconds)
    ticket = await desk.submit(question)
    if form.stream:
        return event_stream(_events(ticket, heard, http.state.request_id))
    try:
        (done,) = await unless_gone(http, ticket.done())
    except Disconnected:
        return Response(status_code=CLIENT_CLOSED_REQUEST)
    if isinstance(done, BaseException):
        raise done
    return answer_of(ticket, done, heard)


async def _events(ticket: Ticket, heard: Heard, request_id: str) -> AsyncIterator[str]:
    try:
        async for said in ticket.events():
            if not isinstance(said, Token):
                yield event("done", compact(answer_of(ticket, said, heard)))
            elif said.text:
                yield event("token", {"id": said.id, "text": said.text})
    except OvertoneError as error:
        yield event("error", compact(problem_of(error, request_id)))
