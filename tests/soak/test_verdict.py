"""The soak's judge finds what it is there for: wrong, crossed and unexplained answers."""

import random

import httpx
import pytest

from app.bench.client import Reply
from app.bench.soak.clients import CompletedRequest
from app.bench.soak.operator import Operator
from app.bench.soak.resources import ResourceUsage
from app.bench.soak.verdict import judge

ALTO = (("alto.0", 1.0),)
TEXTS = {((), 0, 0): "base says", (ALTO, 0, 0): "alto says", (ALTO, 1, 0): "alto says of another"}


@pytest.fixture
async def operator():
    async with httpx.AsyncClient() as http:
        known = Operator(http, {}, random.Random(0))
        known.weights = {"alto@1": "alto.0"}
        yield known


def asked(
    kind: str, body: dict, adapter: str | None = "alto", status: int = 200, said: str | None = None
) -> CompletedRequest:
    text = body.get("text", "") if said is None else said
    return CompletedRequest("client-7", adapter, 0, 0, 10.0, Reply(status, kind, body, text, 1.0))


def answer(text: str, name: str = "alto", version: int | None = 1) -> dict:
    return {"text": text, "adapter": {"name": name, "version": version}}


async def test_right_answers_pass(operator):
    right = [asked("done", answer("alto says")), asked("done", answer("base says", "base"), None)]
    verdict = judge(right, TEXTS, operator)
    assert (verdict.finished, verdict.mismatches, verdict.failures) == (2, [], [])


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (asked("done", answer("alto says of another")), "PEFT says 'alto says'"),
        (asked("done", answer("base says", "base")), "asked alto, answered by base"),
        (asked("done", answer("alto says", version=2)), "never published"),
        (asked("done", answer("alto says"), said="alto"), "the streamed tokens say 'alto'"),
    ],
)
async def test_wrong_answers_are_named(operator, wrong, words):
    (told,) = judge([wrong], TEXTS, operator).mismatches
    assert told.startswith("client-7: ")
    assert words in told


async def test_refusals_need_a_reason(operator):
    gone = asked("", {"code": "adapter_not_found"}, status=404)
    full = asked("", {"code": "queue_full"}, status=429)
    verdict = judge([gone, full, asked("", {"code": "internal_error"}, status=500), asked("", {})], TEXTS, operator)
    assert verdict.refused == {"queue_full": 1}
    assert len(verdict.failures) == 3
    operator._absent["alto"] = [[10.5, 10.7]]
    assert judge([gone], TEXTS, operator).refused == {"adapter_not_found": 1}


def test_what_is_left_behind_is_named():
    start = ResourceUsage(100, 17, 0, 0, 0, 0, 0)
    assert ResourceUsage(150, 17, 0, 0, 0, 0, 0).beyond(start, memory_tolerance=50) == []
    more = ResourceUsage(151, 18, 1, 0, 0, 0, 2).beyond(start, memory_tolerance=50)
    assert [one.partition(":")[0] for one in more] == ["memory", "open_files", "kv_pages", "leftovers"]
