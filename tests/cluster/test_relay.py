"""The door passes on what a replica says, message by message, up to the moment the replica is lost."""

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

pytest.importorskip("ray.serve", reason="Ray is not installed")

from ray.exceptions import ActorDiedError
from starlette.types import Message

from app.settings import Settings
from tests.api.conftest import events_of

STREAM = (b"content-type", b"text/event-stream; charset=utf-8")
JSON = (b"content-type", b"application/json")


class Answer:
    """What Ray hands out for a call: messages in batches, then the death of the replica."""

    def __init__(self, batches: list[list[Message]]) -> None:
        self._batches = iter(batches)

    def __aiter__(self) -> AsyncIterator[list[Message]]:
        return self

    async def __anext__(self) -> list[Message]:
        for batch in self._batches:
            return batch
        raise ActorDiedError

    def cancel(self) -> None:
        """Nothing runs any more."""


class Replicas:
    """A handle whose calls all end with the death of their replica."""

    def __init__(self, batches: list[list[Message]]) -> None:
        self._batches = batches
        self.handle = self

    def options(self, **_: Any) -> "Replicas":
        return self

    def remote(self, *_: Any) -> Answer:
        return Answer(self._batches)


async def relayed(*batches: list[Message]) -> list[Message]:
    """What the client's connection is told."""
    from deploy.ray_ingress import Relay

    told: list[Message] = []
    request = [{"type": "http.request", "body": b"", "more_body": False}]

    async def receive() -> Message:
        return request.pop()

    async def send(message: Message) -> None:
        told.append(message)

    scope = {"type": "http", "method": "GET", "path": "/ready", "headers": [], "state": {"request_id": "mine"}}
    await Relay(Replicas(list(batches)), Settings(_env_file=None))(scope, receive, send)  # type: ignore[arg-type]
    return told


def start(kind: tuple[bytes, bytes]) -> Message:
    return {"type": "http.response.start", "status": 200, "headers": [kind]}


def body(data: bytes, more: bool) -> Message:
    return {"type": "http.response.body", "body": data, "more_body": more}


@pytest.mark.parametrize("kind", [STREAM, JSON])
async def test_a_replica_lost_after_its_last_message_adds_nothing(kind: tuple[bytes, bytes]) -> None:
    """A message more would have Ray's proxy close the connection, on which the client sends its next request."""
    batches = [[start(kind), body(b"one", True)], [body(b"", False)]]
    assert await relayed(*batches) == [message for batch in batches for message in batch]


async def test_a_replica_lost_before_it_answers_is_503() -> None:
    told = await relayed()
    assert told[0]["status"] == 503
    assert b"retry-after" in dict(told[0]["headers"])
    assert json.loads(told[1]["body"])["detail"] == "The replica that answered this was lost; ask again."


async def test_a_replica_lost_within_a_stream_ends_it_with_an_error() -> None:
    told = await relayed([start(STREAM), body(b'event: token\ndata: {"text": "a"}\n\n', True)])
    assert [message.get("more_body") for message in told] == [None, True, False]
    (kind, data) = events_of(b"".join(message.get("body", b"") for message in told).decode())[-1]
    assert (kind, data["status"]) == ("error", 503)


async def test_a_replica_lost_within_another_answer_breaks_the_connection() -> None:
    with pytest.raises(ActorDiedError):
        await relayed([start(JSON), body(b'{"half', True)])
