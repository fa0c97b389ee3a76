"""The input of a generation."""

from typing import Any

import pytest
import torch

from app.engine.request import Done, Failed, Token
from app.errors import QueueFull
from app.models.features import Clip
from app.models.prompt import Message
from app.service.generation import Conversation, unwrap


def clip(name: str) -> Clip:
    return Clip(torch.zeros(1, 1), 1, 1, name)


def test_clips_lie_in_the_order_of_the_prompt() -> None:
    """Recordings of several clips, out of order and used twice."""
    one, (two, three) = clip("1"), (clip("2"), clip("3"))
    recordings = [[one], [two, three]]
    asked = Conversation.of(
        [
            ("system", ("Be brief.",)),
            ("user", ("First:", recordings[1], "Second:", recordings[0])),
            ("assistant", ("Yes.",)),
            ("user", (recordings[1], "Again?")),
        ]
    )
    assert [clip.key for clip in asked.clips] == ["2", "3", "1", "2", "3"]
    assert asked.messages == (
        Message("system", ("Be brief.",)),
        Message("user", ("First:", two, three, "Second:", one)),
        Message("assistant", ("Yes.",)),
        Message("user", (two, three, "Again?")),
    )


@pytest.mark.parametrize("system", [None, "", "Be brief."])
def test_a_single_turn(system: str | None) -> None:
    asked = Conversation.single_turn([[clip("1")], [clip("2")]], "Which?", system)
    assert [message.role for message in asked.messages] == (["system", "user"] if system else ["user"])
    assert asked.messages[-1].parts == (*asked.clips, "Which?")


def test_an_event_of_failure_raises_its_error() -> None:
    done: Any = Done("stop", "", 1, 0, 0, None)  # type: ignore[arg-type]
    assert unwrap(token := Token(1, "a")) is token
    assert unwrap(done) is done
    with pytest.raises(QueueFull):
        unwrap(Failed(QueueFull("full")))
