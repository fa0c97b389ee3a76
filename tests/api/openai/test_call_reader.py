"""Answers taken apart into text and calls: the same however the answer is cut into pieces."""

import json
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from app.api.openai.call_reader import (
    ArgumentsDelta,
    CallReader,
    CallStart,
    JsonReader,
    MarkedReader,
    NamedReader,
    TextDelta,
    TextReader,
    written,
)

NAMES = ("move", "say")
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)
ARGUMENTS = st.dictionaries(st.text(max_size=4), VALUES, max_size=3)
CALLS = st.lists(st.tuples(st.sampled_from(NAMES), ARGUMENTS), min_size=1, max_size=4)


def in_pieces(reader: CallReader, answer: str, cuts: list[int]) -> tuple[str, list[tuple[str, str]]]:
    """What a stream's client puts together."""
    edges = sorted({0, len(answer), *(cut % (len(answer) + 1) for cut in cuts)})
    pieces = [piece for start, end in pairwise(edges) for piece in reader.feed(answer[start:end])]
    pieces += reader.end()
    text, calls = "", list[tuple[str, str]]()
    for piece in pieces:
        if isinstance(piece, TextDelta):
            text += piece.text
        elif isinstance(piece, CallStart):
            assert piece.index == len(calls)
            calls.append((piece.name, ""))
        else:
            assert isinstance(piece, ArgumentsDelta)
            calls[piece.index] = (calls[piece.index][0], calls[piece.index][1] + piece.text)
    return text, calls


@settings(max_examples=60, deadline=None)
@given(CALLS, st.sampled_from([None, 2]), st.booleans(), st.lists(st.integers(0, 999), max_size=12))
def test_calls_in_json(calls: list[tuple[str, Any]], indent: int | None, ascii: bool, cuts: list[int]) -> None:
    made = [{"name": name, "arguments": arguments} for name, arguments in calls]
    answer = json.dumps(made if len(made) > 1 else made[0], indent=indent, ensure_ascii=ascii)
    text, found = in_pieces(JsonReader(), answer, cuts)
    assert text == ""
    assert [(name, json.loads(arguments)) for name, arguments in found] == calls


@settings(max_examples=60, deadline=None)
@given(CALLS, st.text(alphabet="ab<tol_c>\n ", max_size=20), st.lists(st.integers(0, 999), max_size=12))
def test_calls_in_marks(calls: list[tuple[str, Any]], before: str, cuts: list[int]) -> None:
    assume("<tool_call>" not in before)
    blocks = [json.dumps({"name": name, "arguments": arguments}) for name, arguments in calls]
    answer = before + "\n".join(f"<tool_call>\n{block}\n</tool_call>" for block in blocks)
    text, found = in_pieces(MarkedReader(NAMES), answer, cuts)
    assert text == before
    assert [(name, json.loads(arguments)) for name, arguments in found] == calls


@pytest.mark.parametrize(
    "answer",
    [
        "", "no call", "<tool_call", "<tool_call>{", '<tool_call>{"name": "dance", "arguments": {}}</tool_call>',
        "<tool_call>nothing</tool_call> more", '<tool_call>{"name": ["move"]}</tool_call>',
        "<tool_call>[]</tool_call>x",
        '<tool_call>{"name": "move", "arguments": 3}</tool_call>',
    ],
)  # fmt: skip
@settings(max_examples=10, deadline=None)
@given(cuts=st.lists(st.integers(0, 99), max_size=6))
def test_what_is_no_call_stays_text(answer: str, cuts: list[int]) -> None:
    text, calls = in_pieces(MarkedReader(NAMES), answer, cuts)
    assert calls == []
    assert text.replace(" ", "") == answer.replace(" ", "")


def test_whole_answers() -> None:
    assert written(TextReader(), "") == ("", [])
    assert written(TextReader(), "hello") == ("hello", [])
    text, (call,) = written(NamedReader("move"), '{"a": 1}')
    assert (text, call.name, call.arguments) == (None, "move", '{"a": 1}')
    text, (call,) = written(JsonReader(), '{"name": "say", "arguments": {"words": "cut o')
    assert (text, call.name, call.arguments) == (None, "say", '{"words": "cut o')
    text, (first, second) = written(
        MarkedReader(NAMES),
        'Well.<tool_call>{"name": "move"}</tool_call>\n<tool_call>{"name": "say", "arguments": {"a": 2}}</tool_call>',
    )
    assert (text, first.arguments, second.arguments) == ("Well.", "{}", '{"a": 2}')
