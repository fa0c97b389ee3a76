"""`POST /compare`: one prompt for several adapters at once; the audio is decoded and encoded once."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import APIRouter, Form, Request

from app.api.audio_input import DecodedAudio, decode_uploads
from app.api.dependencies import Ready, State, Submit
from app.api.disconnect import results_or_errors
from app.api.load_shedding import SheddingRoute
from app.api.problems import problem_of
from app.api.remembering import Memory
from app.api.routes.generate import RESPONSES
from app.api.schemas.requests import CompareForm
from app.api.schemas.responses import (
    AdapterRef,
    ComparedAnswer,
    ComparedError,
    Comparison,
    adapter_ref,
    answer_of,
    compact,
)
from app.api.sse import event, event_stream
from app.api.streaming import Generation
from app.engine.request import Done, Token
from app.errors import OvertoneError

router = APIRouter(route_class=SheddingRoute, tags=["generate"])


@dataclass(frozen=True)
class Entrant:
    """One adapter's part: its generation, or the error that prevented it."""

    index: int
    named: str
    outcome: Generation | OvertoneError


@router.post("/compare", response_model=Comparison, response_model_exclude_none=True, responses=RESPONSES)
async def compare(
    form: Annotated[CompareForm, Form(media_type="multipart/form-data")],
    http: Request,
    state: State,
    service: Ready,
    submitter: Submit,
) -> Any:
    """Ask several adapters the same, in one batch.

    ```sh
    curl localhost:8000/compare -F audio=@clip.wav -F adapters=base,nato
    curl localhost:8000/compare -F audio=@clip.wav -F adapters=base -F adapters=nato:0.7+digits:0.3
    ```

    The answers come in the order of `adapters`; one that fails gives its `error` in its place, and the status
    is an error only when all failed. With `stream=true` each event carries the `index` of its adapter.
    """
    audio = await decode_uploads(state, service, form.audio, max_tokens=service.engine.max_tokens_per_request)
    sampling = form.sampling()  # one seed for all, so that nothing but the adapter differs
    entrants = []
    for index, named in enumerate(form.adapters):
        outcome: Generation | OvertoneError
        try:
            adapters = await asyncio.to_thread(service.adapters.resolve, named)
            outcome = await submitter.submit(form.generation_input(audio, adapters, sampling))
        except OvertoneError as error:
            outcome = error
        entrants.append(Entrant(index, named, outcome))
    errors = [entrant.outcome for entrant in entrants if isinstance(entrant.outcome, OvertoneError)]
    if len(errors) == len(entrants):
        raise errors[0]
    request_id: str = http.state.request_id
    memory = await Memory.of(state, service, form.audio)
    if form.stream:
        return event_stream(*(_events(entrant, audio, memory, request_id) for entrant in entrants))
    generations = [e.outcome for e in entrants if isinstance(e.outcome, Generation)]
    ends = iter(await results_or_errors(http, *(generation.done() for generation in generations)))
    ended = [(e, e.outcome if isinstance(e.outcome, OvertoneError) else next(ends)) for e in entrants]
    for entrant, end in ended:
        if isinstance(entrant.outcome, Generation) and isinstance(end, Done):
            memory.keep(entrant.outcome, end, audio)
    return Comparison(answers=[_answer(entrant, end, audio, request_id) for entrant, end in ended])


def _answer(
    entrant: Entrant, end: Done | BaseException, audio: DecodedAudio, request_id: str
) -> ComparedAnswer | ComparedError:
    generation = entrant.outcome
    if isinstance(end, OvertoneError):
        ref = AdapterRef(name=entrant.named)
        if isinstance(generation, Generation):
            ref = adapter_ref(generation.input.adapters)
        return ComparedError(index=entrant.index, adapter=ref, error=problem_of(end, request_id))
    if isinstance(end, BaseException):
        raise end
    assert isinstance(generation, Generation)
    return ComparedAnswer(index=entrant.index, **dict(answer_of(generation, end, audio)))


async def _events(entrant: Entrant, audio: DecodedAudio, memory: Memory, request_id: str) -> AsyncIterator[str]:
    try:
        if isinstance(entrant.outcome, OvertoneError):
            raise entrant.outcome
        async for said in entrant.outcome.events():
            if not isinstance(said, Token):
                memory.keep(entrant.outcome, said, audio)
                yield event("done", compact(_answer(entrant, said, audio, request_id)))
            elif said.text:
                yield event("token", {"index": entrant.index, "id": said.id, "text": said.text})
    except OvertoneError as error:
        yield event("error", compact(_answer(entrant, error, audio, request_id)))
