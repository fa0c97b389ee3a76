"""`POST /compare`: one question to several adapters at once; the audio is decoded and encoded once."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import APIRouter, Form, Request, Response

from app.api.admission import AskingRoute
from app.api.answers import AdapterRef, ComparedAnswer, ComparedError, Comparison, adapter_ref, answer_of, compact
from app.api.forms import CompareForm
from app.api.generate import CLIENT_CLOSED_REQUEST, RESPONSES
from app.api.hearing import Heard, hear
from app.api.problems import problem_of
from app.api.sse import event, event_stream
from app.api.state import Ready, RequestDesk, State
from app.api.tickets import Disconnected, Question, Ticket, unless_gone
from app.engine.request import Done, Token
from app.errors import OvertoneError

router = APIRouter(route_class=AskingRoute, tags=["generate"])


@dataclass(frozen=True)
class Entrant:
    """One adapter's part: a ticket, or the error that kept it from getting one."""

    index: int
    named: str
    outcome: Ticket | OvertoneError


@router.post("/compare", response_model=Comparison, response_model_exclude_none=True, responses=RESPONSES)
async def compare(
    form: Annotated[CompareForm, Form(media_type="multipart/form-data")],
    http: Request,
    state: State,
    service: Ready,
    desk: RequestDesk,
) -> Any:
    """Ask several adapters the same, in one batch.

    ```sh
    curl localhost:8000/compare -F audio=@clip.wav -F adapters=base,nato
    curl localhost:8000/compare -F audio=@clip.wav -F adapters=base -F adapters=nato:0.7+digits:0.3
    ```

    The answers come in the order of `adapters`; one that fails gives its `error` in its place, and the status
    is an error only when all failed. With `stream=true` each event carries the `index` of its adapter.
    """
    form.turns()
    heard = await hear(state, service, form.audio, room=service.engine.room)
    sampling = form.sampling()  # one seed for all, so that nothing but the adapter differs
    entrants = []
    for index, named in enumerate(form.adapters):
        outcome: Ticket | OvertoneError
        try:
            shares = await asyncio.to_thread(service.shares, named)
            messages = form.conversation(heard.clips, shares)
            outcome = await desk.submit(Question(messages, shares, sampling, heard.took_s, heard.seconds))
        except OvertoneError as error:
            outcome = error
        entrants.append(Entrant(index, named, outcome))
    errors = [entrant.outcome for entrant in entrants if isinstance(entrant.outcome, OvertoneError)]
    if len(errors) == len(entrants):
        raise errors[0]
    request_id: str = http.state.request_id
    if form.stream:
        return event_stream(*(_events(entrant, heard, request_id) for entrant in entrants))
    try:
        tickets = [e.outcome for e in entrants if isinstance(e.outcome, Ticket)]
        ends = iter(await unless_gone(http, *(ticket.done() for ticket in tickets)))
    except Disconnected:
        return Response(status_code=CLIENT_CLOSED_REQUEST)
    ended = [(e, e.outcome if isinstance(e.outcome, OvertoneError) else next(ends)) for e in entrants]
    return Comparison(answers=[_answer(entrant, end, heard, request_id) for entrant, end in ended])


def _answer(
    entrant: Entrant, end: Done | BaseException, heard: Heard, request_id: str
) -> ComparedAnswer | ComparedError:
    ticket = entrant.outcome
    if isinstance(end, OvertoneError):
        ref = adapter_ref(ticket.question.shares) if isinstance(ticket, Ticket) else AdapterRef(name=entrant.named)
        return ComparedError(index=entrant.index, adapter=ref, error=problem_of(end, request_id))
    if isinstance(end, BaseException):
        raise end
    assert isinstance(ticket, Ticket)
    return ComparedAnswer(index=entrant.index, **dict(answer_of(ticket, end, heard)))


async def _events(entrant: Entrant, heard: Heard, request_id: str) -> AsyncIterator[str]:
    try:
        if isinstance(entrant.outcome, OvertoneError):
            raise entrant.outcome
        async for said in entrant.outcome.events():
            if not isinstance(said, Token):
                yield event("done", compact(_answer(entrant, said, heard, request_id)))
            elif said.text:
                yield event("token", {"index": entrant.index, "id": said.id, "text": said.text})
    except OvertoneError as error:
        yield event("error", compact(_answer(entrant, error, heard, request_id)))
