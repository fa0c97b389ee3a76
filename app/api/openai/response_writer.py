"""One answer of `/v1/responses`, whole or as the events of a stream."""

import secrets
import time
from collections.abc import Iterator, Sequence
from typing import Any

from app.api.openai.call_reader import ArgumentsDelta, CallReader, CallStart, Piece, TextDelta
from app.api.openai.errors import error_body
from app.api.schemas.openai.details import OvertoneDetails
from app.api.schemas.openai.response_answer import (
    IncompleteDetails,
    OutputCall,
    OutputMessage,
    OutputTextPart,
    ResponseFailure,
    ResponseObject,
    Status,
    usage_of,
)
from app.api.schemas.openai.response_request import NamedFunction, ResponseRequest
from app.engine.request import Done
from app.errors import OvertoneError

Event = dict[str, Any]


class ResponseWriter:
    """Writes an answer piece by piece; each method returns the events so far.

    ``reader``: takes the answer apart into text and calls. ``details``: receipts and warnings.
    """

    def __init__(self, asked: ResponseRequest, reader: CallReader, details: OvertoneDetails | None = None) -> None:
        self._reader = reader
        self._items: list[OutputMessage | OutputCall] = []
        self._open = False  # true while the last item is being written
        self._number = 0  # of the next event
        self._response = ResponseObject(
            id=f"resp_{secrets.token_hex(24)}",
            created_at=int(time.time()),
            status="in_progress",
            model=asked.model,
            output=[],
            instructions=asked.instructions,
            max_output_tokens=asked.max_output_tokens,
            parallel_tool_calls=bool(asked.parallel_tool_calls),
            temperature=asked.temperature,
            text={"format": _format(asked)},
            tool_choice=_choice(asked),
            tools=[tool.model_dump(exclude_none=True) for tool in asked.tools],
            top_p=asked.top_p,
            metadata=asked.metadata,
            overtone=details,
        )

    @property
    def id(self) -> str:
        """The answer's."""
        return self._response.id

    def whole(self, done: Done) -> ResponseObject:
        """The answer in one piece."""
        self.feed(done.text)
        self.end(done)
        return self._response

    def begin(self) -> list[Event]:
        return [self._state("response.created"), self._state("response.in_progress")]

    def feed(self, text: str) -> list[Event]:
        return list(self._written(self._reader.feed(text)))

    def end(self, done: Done) -> list[Event]:
        """The rest of the answer and its end."""
        cut = done.finish_reason == "length"
        events = list(self._written(self._reader.end()))
        if not self._items:
            events += self._begin_text()
        events += self._close("incomplete" if cut else "completed")
        self._response = self._response.model_copy(
            update={
                "status": "incomplete" if cut else "completed",
                "completed_at": None if cut else int(time.time()),
                "incomplete_details": IncompleteDetails() if cut else None,
                "output": list(self._items),
                "usage": usage_of(done),
            }
        )
        return [*events, self._state("response.incomplete" if cut else "response.completed")]

    def fail(self, error: OvertoneError) -> list[Event]:
        """The end of a stream that has no answer."""
        told = error_body(error)["error"]
        failure = ResponseFailure(code=told["code"], message=told["message"])
        self._response = self._response.model_copy(update={"status": "failed", "error": failure})
        return [self._state("response.failed")]

    def _written(self, pieces: Sequence[Piece]) -> Iterator[Event]:
        for piece in pieces:
            if isinstance(piece, CallStart):
                yield from self._close("completed")
                yield from self._begin_call(piece)
            elif isinstance(piece, TextDelta):
                if not (self._open and isinstance(self._items[-1], OutputMessage)):
                    yield from self._close("completed")
                    yield from self._begin_text()
                yield self._add_text(piece)
            else:
                yield self._add_arguments(piece)

    def _begin_text(self) -> Iterator[Event]:
        item = OutputMessage(id=f"msg_{secrets.token_hex(24)}", status="in_progress", content=[])
        self._items.append(item)
        self._open = True
        yield self._event("response.output_item.added", item=item.model_dump())
        item.content.append(OutputTextPart(text=""))
        yield self._event("response.content_part.added", content_index=0, part=item.content[0].model_dump())

    def _begin_call(self, start: CallStart) -> Iterator[Event]:
        item = OutputCall(
            id=f"fc_{secrets.token_hex(24)}", status="in_progress", call_id=start.id, name=start.name, arguments=""
        )
        self._items.append(item)
        self._open = True
        yield self._event("response.output_item.added", item=item.model_dump())

    def _add_text(self, piece: TextDelta) -> Event:
        item = self._items[-1]
        assert isinstance(item, OutputMessage)
        item.content[0].text += piece.text
        return self._event("response.output_text.delta", content_index=0, delta=piece.text, logprobs=[])

    def _add_arguments(self, piece: ArgumentsDelta) -> Event:
        item = self._items[-1]
        assert isinstance(item, OutputCall)
        item.arguments += piece.text
        return self._event("response.function_call_arguments.delta", delta=piece.text)

    def _close(self, status: Status) -> Iterator[Event]:
        """End the item that is being written."""
        if not self._open:
            return
        self._open = False
        item = self._items[-1]
        item.status = status
        if isinstance(item, OutputMessage):
            part = item.content[0]
            yield self._event("response.output_text.done", content_index=0, text=part.text, logprobs=[])
            yield self._event("response.content_part.done", content_index=0, part=part.model_dump())
        else:
            yield self._event("response.function_call_arguments.done", arguments=item.arguments, name=item.name)
        yield self._event("response.output_item.done", item=item.model_dump())

    def _event(self, kind: str, **fields: Any) -> Event:
        """An event of the last item."""
        place = {"output_index": len(self._items) - 1}
        if "item" not in fields:
            place["item_id"] = self._items[-1].id  # type: ignore[assignment]
        return self._numbered(kind, place | fields)

    def _state(self, kind: str) -> Event:
        return self._numbered(kind, {"response": self._response.model_dump(mode="json")})

    def _numbered(self, kind: str, fields: dict[str, Any]) -> Event:
        self._number += 1
        return {"type": kind, "sequence_number": self._number - 1, **fields}


def _format(asked: ResponseRequest) -> dict[str, Any]:
    if asked.text is None or asked.text.format is None:
        return {"type": "text"}
    return asked.text.format.model_dump(by_alias=True, exclude_none=True)


def _choice(asked: ResponseRequest) -> Any:
    if isinstance(asked.tool_choice, NamedFunction):
        return asked.tool_choice.model_dump()
    return asked.tool_choice or "auto"
