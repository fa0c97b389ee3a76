"""`/feedback…`: verdicts on answers, and the data set that they become."""

import re
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from tempfile import TemporaryFile
from typing import IO, Annotated, Any, TypeVar

from anyio import to_thread
from fastapi import APIRouter, Path, Query, Request, Response
from fastapi.responses import StreamingResponse

from app.api.audio_input import decode_uploads
from app.api.dependencies import AppState, Feedback, Ready, State
from app.api.problems import InvalidFields, documented
from app.api.remembering import read_uploads
from app.api.routes.datasets import WAV, as_wav
from app.api.schemas.feedback import BODY, FeedbackForm, RowChange, RowList, RowView, receive, view_of
from app.api.strict_route import StrictRoute
from app.errors import Conflict, NotFound
from app.feedback.recent import AnsweredRequest, Upload
from app.feedback.row import PLACEHOLDER, AdapterPart, AskedTurn, FeedbackRow, Verdict
from app.feedback.store import new_id
from app.feedback.tenant_view import TenantFeedback, answered_by
from app.service import Service
from app.service.adapters import BASE
from app.service.generation import default_prompt

T = TypeVar("T")
router = APIRouter(route_class=StrictRoute, tags=["feedback"])
Identity = Annotated[str, Path(description="id of the row", examples=["20261130-174500-1f2e3d4c5b"])]
_VERSION = re.compile(r"@\d+\b")
ZIP: dict[int | str, dict[str, Any]] = {
    200: {"description": "data.jsonl and audio/", "content": {"application/zip": {}}}
}


@router.post(
    "/feedback",
    status_code=201,
    responses=documented(400, 401, 403, 404, 408, 409, 413, 415, 422, 429, 503, 507),
    openapi_extra={"requestBody": BODY},
)
async def give_feedback(request: Request, feedback: Feedback, service: Ready, state: State) -> RowView:
    """Say whether an answer was right, and what it should have been. A second verdict replaces the first.

    ```sh
    curl localhost:8000/feedback --json '{"request_id": "req-5f0c6a1d", "verdict": "wrong", "corrected": "go on"}'
    curl localhost:8000/feedback -F request_id=req-5f0c6a1d -F verdict=right -F consent=true -F audio=@clip.wav
    ```

    The server remembers its latest answers for an hour at most, with their recordings, in memory. Recordings are
    kept with `consent` alone. Where the server remembers the answer no more, send `audio`, `answer` and `prompt`.
    """
    form = await receive(request)
    try:
        asked = feedback.asked(form.request_id) if form.request_id else None
        sent = await to_thread.run_sync(read_uploads, form.audio)
        if sent and (asked is None or not asked.uploads):
            await decode_uploads(state, service, form.audio)  # refuses what is no recording
    finally:
        for upload in form.audio:
            await upload.close()
    known = await to_thread.run_sync(_said_by_client, form, sent, service) if asked is None else asked
    uploads = _same(known.uploads, sent) if asked else sent
    _check_answer(form, known)
    row = _row(form, known, uploads, remembered=asked is not None)
    kept = uploads if form.consent else ()
    return view_of(await _on_thread(state, feedback, lambda: feedback.put(row, kept)))


@router.get("/feedback", responses=documented(401, 403, 404, 422, 507))
async def list_feedback(
    feedback: Feedback,
    state: State,
    verdict: Annotated[Verdict | None, Query(description="right, wrong or draft")] = None,
    adapter: Annotated[str | None, Query(max_length=2000, description="that answered; `base` is one")] = None,
    adapted: Annotated[bool | None, Query(description="true: an adapter answered; false: the base model")] = None,
    limit: Annotated[int, Query(ge=1, le=1000, description="rows at most")] = 100,
    offset: Annotated[int, Query(ge=0, description="rows passed over")] = 0,
) -> RowList:
    """Your rows, newest first: `curl 'localhost:8000/feedback?verdict=wrong&adapted=true'`."""

    def fits(row: FeedbackRow) -> bool:
        return (
            verdict in (None, row.verdict)
            and (adapter is None or answered_by(row, adapter))
            and adapted in (None, bool(row.adapters))
        )

    def read() -> RowList:
        rows, store = feedback.all(fits), feedback.store
        return RowList(
            rows=[view_of(row) for row in rows[offset : offset + limit]],
            total=len(rows),
            usable=sum(row.why_unusable is None for row in rows),
            used_bytes=store.use(feedback.caller.tenant),
            most_bytes=store.most_bytes,
            days=store.days,
        )

    return await _on_thread(state, feedback, read)


@router.get("/feedback/export", response_class=StreamingResponse, responses=ZIP | documented(401, 403, 404, 422, 507))
async def export_feedback(
    feedback: Feedback,
    state: State,
    adapter: Annotated[str | None, Query(max_length=2000, description="that answered; all without it")] = None,
) -> StreamingResponse:
    """What can be trained on, as `overtone train` reads it: `curl -OJ localhost:8000/feedback/export`.

    The header `X-Rows` counts the rows in it, `X-Rows-Left-Out` those that cannot be trained on.
    """

    def pack() -> StreamingResponse:
        rows = feedback.all(lambda row: adapter is None or answered_by(row, adapter))
        usable = [row for row in rows if row.why_unusable is None]
        file = TemporaryFile()  # noqa: SIM115, `_blocks` closes it
        feedback.write_zip(usable, file)
        headers = {
            "Content-Disposition": 'attachment; filename="feedback.zip"',
            "Content-Length": str(file.tell()),
            "X-Rows": str(len(usable)),
            "X-Rows-Left-Out": str(len(rows) - len(usable)),
        }
        return StreamingResponse(_blocks(file), media_type="application/zip", headers=headers)

    return await _on_thread(state, feedback, pack)


@router.get("/feedback/{id}", responses=documented(401, 403, 404, 422, 507))
async def get_feedback(id: Identity, feedback: Feedback, state: State) -> RowView:
    """One row: `curl localhost:8000/feedback/20261130-174500-1f2e3d4c5b`."""
    return view_of(await _on_thread(state, feedback, lambda: feedback.get(id)))


@router.post("/feedback/{id}", responses=documented(400, 401, 403, 404, 422, 507))
async def change_feedback(id: Identity, change: RowChange, feedback: Feedback, state: State) -> RowView:
    """Change verdict or corrected text, exclude the row, or choose the side that it is on in training.

    `curl localhost:8000/feedback/20261130-174500-1f2e3d4c5b --json '{"corrected": "go forward", "excluded": false}'`
    """
    fields = change.model_dump(exclude_none=True)
    return view_of(await _on_thread(state, feedback, lambda: feedback.change(id, **fields)))


@router.delete("/feedback/{id}", responses=documented(401, 403, 404, 422, 507))
async def delete_feedback(id: Identity, feedback: Feedback, state: State) -> RowView:
    """Delete a row with its recordings: `curl -X DELETE localhost:8000/feedback/20261130-174500-1f2e3d4c5b`.

    Training jobs that were made with it have copies of their own: `?purge=true` deletes those.
    """
    return view_of(await _on_thread(state, feedback, lambda: feedback.delete(id)))


@router.get(
    "/feedback/{id}/recording",
    response_class=Response,
    responses=WAV | documented(401, 403, 404, 413, 415, 422, 503, 507),
)
async def read_feedback_recording(
    id: Identity,
    feedback: Feedback,
    service: Ready,
    state: State,
    index: Annotated[int, Query(ge=0, description="of the row's recordings")] = 0,
) -> Response:
    """A recording that was kept, as wav: `curl -O localhost:8000/feedback/20261130-174500-1f2e3d4c5b/recording`."""
    sent = await _on_thread(state, feedback, lambda: feedback.recording(id, index))
    async with state.decoding_turns.acquire(feedback.caller.tenant):
        data = await to_thread.run_sync(as_wav, service, sent, "recording", limiter=state.decoding_limiter)
    return Response(data, media_type="audio/wav")


async def _on_thread(state: AppState, feedback: TenantFeedback, work: Callable[[], T]) -> T:
    """The result of what reads or writes files."""
    return await to_thread.run_sync(work, limiter=state.file_limiters.of(feedback.caller))


def _said_by_client(form: FeedbackForm, sent: tuple[Upload, ...], service: Service) -> AnsweredRequest:
    """The question and answer as the client tells them. Raises NotFound where it does not, AdapterNotFound."""
    if form.answer is None:
        raise NotFound(
            f"The answer {str(form.request_id)[:80]!r} is remembered no more: it is over an hour old, others came "
            "since, or the server was restarted. Send `answer`, `prompt`, `adapter` and `audio` with the verdict."
        )
    named = form.adapter or BASE
    weights = service.adapters.resolve(_VERSION.sub("", named))
    versions = {part.partition("@")[0]: part.partition("@")[2].partition(":")[0] for part in named.split(",")}
    parts = [
        AdapterPart(
            name=one.adapter.name,
            version=int(versions[one.adapter.name]) if versions.get(one.adapter.name) else None,
            weight=one.weight,
        )
        for one in weights
    ]
    prompt = form.prompt or default_prompt(weights)
    if PLACEHOLDER in prompt:
        raise InvalidFields(f"prompt: {PLACEHOLDER} stands for a recording in data sets.", ["prompt"])
    question = AskedTurn(role="user", content=PLACEHOLDER * len(sent) + prompt)
    return AnsweredRequest(
        form.request_id or "",
        service.loaded.spec.name,
        _VERSION.sub("", named),
        tuple(parts),
        (question,),
        {},
        form.answer,
        sent,
    )


def _same(kept: tuple[Upload, ...], sent: tuple[Upload, ...]) -> tuple[Upload, ...]:
    """The recordings of a remembered request. Raises Conflict for others than those it was asked about."""
    if not kept:
        return sent
    if sent and [one.data for one in sent] != [one.data for one in kept]:
        raise Conflict("These are not the recordings that the answer was about; leave `audio` out, or send those.")
    return kept


def _check_answer(form: FeedbackForm, known: AnsweredRequest) -> None:
    """Raises Conflict unless the client means the answer that the server gave, InvalidFields for an unclear text."""
    if form.answer is not None and form.answer.strip() != known.answer.strip():
        raise Conflict("The answer of that id reads otherwise; name the `id` of the answer that you judge.")
    marks = sum(turn.content.count(PLACEHOLDER) for turn in known.messages)
    if PLACEHOLDER in known.answer or (known.uploads and marks != len(known.uploads)):
        raise InvalidFields(
            f"The question or the answer holds the text {PLACEHOLDER}, which stands for a recording in data sets; "
            "it cannot become a row.",
            ["request_id"],
        )


def _row(form: FeedbackForm, known: AnsweredRequest, uploads: tuple[Upload, ...], remembered: bool) -> FeedbackRow:
    return FeedbackRow(
        id=new_id(known.id, known.answer),
        request_id=known.id or None,
        time=datetime.now(UTC),
        model=known.model,
        adapter=known.adapter,
        adapters=list(known.adapters),
        messages=list(known.messages),
        options=known.options,
        answer=known.answer,
        verdict=form.verdict,
        corrected=form.corrected,
        consent=form.consent,
        remembered=remembered,
        split=None if form.split == "auto" else form.split,
        recordings=[upload.ref(kept=form.consent) for upload in uploads],
    )


def _blocks(file: IO[bytes]) -> Iterator[bytes]:
    with file:
        file.seek(0)
        while block := file.read(1 << 20):
            yield block
