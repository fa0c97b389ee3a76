"""Calls of tools through the official client: required and named ones keep to their schema, whole and in streams."""

import json
from typing import Any

import httpx
import jsonschema
import openai as sdk
import pytest
from openai import OpenAI
from openai.lib.streaming.chat import ChatCompletionStreamState

from tests.api.openai.conftest import BASE, heard

MOVE: dict[str, Any] = {
    "type": "object",
    "properties": {"direction": {"$ref": "#/$defs/way"}, "steps": {"type": "integer", "minimum": 1, "maximum": 9}},
    "required": ["direction", "steps"],
    "additionalProperties": False,
    "$defs": {"way": {"enum": ["forward", "back"]}},
}
SAY: dict[str, Any] = {
    "type": "object",
    "properties": {"words": {"type": "string", "maxLength": 6}, "again": {"anyOf": [{"$ref": "#"}, {"type": "null"}]}},
    "required": ["words"],
    "additionalProperties": False,
}


def tool(name: str, parameters: dict[str, Any] | None) -> Any:
    function: dict[str, Any] = {"name": name, "description": f"To {name}."}
    return {"type": "function", "function": function | ({"parameters": parameters} if parameters else {})}


# as pydantic writes a model: nothing is said of other properties
PLAIN: dict[str, Any] = {
    "type": "object",
    "properties": {"steps": {"type": "integer", "maximum": 9}, "to": {"$ref": "#/$defs/Place"}},
    "required": ["steps", "to"],
    "$defs": {"Place": {"type": "object", "properties": {"x": {"enum": [1, 2]}}, "required": ["x"]}},
}
TOOLS = [tool("move", MOVE), tool("say", SAY), tool("stop", None)]
SCHEMAS = {"move": MOVE, "say": SAY, "stop": {"type": "object", "maxProperties": 0}}
HOW = {"greedy": {}, "wild": {"temperature": 5.0, "seed": 3}}


def fits(call: Any) -> None:
    jsonschema.validate(json.loads(call.function.arguments), SCHEMAS[call.function.name])


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("name", SCHEMAS)
def test_a_named_tool_is_called(openai: OpenAI, name: str, how: str) -> None:
    choice: Any = {"type": "function", "function": {"name": name}}
    answer = openai.chat.completions.create(
        model=BASE, messages=heard(), tools=TOOLS, tool_choice=choice, max_tokens=200, **HOW[how]
    )
    message = answer.choices[0].message
    (call,) = message.tool_calls or ()
    assert (call.type, call.function.name, message.content) == ("function", name, None)
    assert call.id.startswith("call_")
    assert answer.choices[0].finish_reason == "tool_calls"
    fits(call)
    assert any("no place for them" in warning for warning in answer.overtone["warnings"])  # type: ignore[attr-defined]


@pytest.mark.parametrize("several", [None, False, True])
@pytest.mark.parametrize("seed", [1, 2])
def test_a_required_tool_is_one_of_them(openai: OpenAI, several: bool | None, seed: int) -> None:
    beside = {} if several is None else {"parallel_tool_calls": several}
    answer = openai.chat.completions.create(
        model=BASE, messages=heard(), tools=TOOLS, tool_choice="required", temperature=5, seed=seed, max_tokens=600,
        **beside,
    )  # fmt: skip
    calls = answer.choices[0].message.tool_calls or []
    assert 1 <= len(calls) <= (8 if several else 1)
    assert len({call.id for call in calls}) == len(calls)
    if answer.choices[0].finish_reason == "tool_calls":
        for call in calls:
            fits(call)


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "move"}}])
@pytest.mark.parametrize("several", [False, True])
def test_a_stream_adds_up_to_the_whole(openai: OpenAI, choice: Any, several: bool) -> None:
    asked: dict[str, Any] = {
        "model": BASE, "messages": heard(), "tools": TOOLS, "tool_choice": choice, "parallel_tool_calls": several,
        "temperature": 3.0, "seed": 4, "max_tokens": 300,
    }  # fmt: skip
    whole = openai.chat.completions.create(**asked).choices[0]
    state = ChatCompletionStreamState(input_tools=TOOLS)
    for chunk in openai.chat.completions.create(**asked, stream=True):
        state.handle_chunk(chunk)
    streamed = state.get_final_completion().choices[0]
    assert streamed.finish_reason == whole.finish_reason == "tool_calls"
    assert [(call.function.name, call.function.arguments) for call in streamed.message.tool_calls or ()] == [
        (call.function.name, call.function.arguments) for call in whole.message.tool_calls or ()
    ]
    assert streamed.message.content is None


@pytest.mark.parametrize("how", HOW)
def test_nothing_is_added_to_objects_that_do_not_say_whether_they_are_open(openai: OpenAI, how: str) -> None:
    """Neither in calls nor in a format: a model that knows no schema would go on until it is cut off."""
    form: Any = {"type": "json_schema", "json_schema": {"name": "plain", "schema": PLAIN}}
    told = openai.chat.completions.create(
        model=BASE, messages=heard(), response_format=form, max_tokens=200, **HOW[how]
    )
    called = openai.chat.completions.create(
        model=BASE, messages=heard(), tools=[tool("go", PLAIN)], tool_choice="required", max_tokens=200, **HOW[how]
    )
    (call,) = called.choices[0].message.tool_calls or ()
    for text in (str(told.choices[0].message.content), call.function.arguments):
        answer = json.loads(text)
        jsonschema.validate(answer, PLAIN)
        assert answer.keys() == {"steps", "to"}
        assert answer["to"].keys() == {"x"}


def test_a_call_that_is_cut_off_says_so(openai: OpenAI) -> None:
    choice: Any = {"type": "function", "function": {"name": "move"}}
    answer = openai.chat.completions.create(model=BASE, messages=heard(), tools=TOOLS, tool_choice=choice, max_tokens=3)
    assert answer.choices[0].finish_reason == "length"


def test_results_go_back_as_text(openai: OpenAI, plain: httpx.Client) -> None:
    """The model reads a call and its result as the same words in turns of their own."""
    call = {"id": "c1", "type": "function", "function": {"name": "move", "arguments": '{"steps": 2}'}}
    history: Any = [
        {"role": "user", "content": "hello"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c1", "content": "moved"},
    ]
    told = openai.chat.completions.create(model=BASE, messages=history, tools=TOOLS, tool_choice="none", max_tokens=9)
    words: Any = [
        {"role": "user", "content": "hello"},
        {"role": "assistant", "content": '{"name": "move", "arguments": {"steps": 2}}'},
        {"role": "user", "content": "Result of move: moved"},
    ]
    same = openai.chat.completions.create(model=BASE, messages=words, max_tokens=9)
    assert told.choices == same.choices
    assert told.usage == same.usage
    assert any("as text" in warning for warning in told.overtone["warnings"])  # type: ignore[attr-defined]


def test_an_answer_with_calls_may_be_sent_back(openai: OpenAI) -> None:
    asked: Any = [{"role": "user", "content": "hello"}]
    first = openai.chat.completions.create(model=BASE, messages=asked, tools=TOOLS, tool_choice="required")
    message = first.choices[0].message
    calls = message.tool_calls or []
    asked += [message, *({"role": "tool", "tool_call_id": call.id, "content": "done"} for call in calls)]
    assert (
        openai.chat.completions.create(model=BASE, messages=asked, max_tokens=4).choices[0].message.tool_calls is None
    )


CALL = {"id": "c1", "type": "function", "function": {"name": "move", "arguments": "{}"}}


def nested(depth: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "string"}
    for _ in range(depth):
        schema = {"type": "array", "items": schema}
    return schema


WRONG: list[tuple[dict[str, Any], str, str]] = [
    ({"tools": TOOLS}, "cannot choose whether to call one", "tool_choice"),
    ({"tools": TOOLS, "tool_choice": "auto"}, "Send 'required', or name one", "tool_choice"),
    ({"tool_choice": "required"}, "there are no tools", "tool_choice"),
    ({"tools": TOOLS, "tool_choice": {"type": "function", "function": {"name": "mvoe"}}}, "move, say, stop",
     "tool_choice"),
    ({"tools": [TOOLS[0], TOOLS[0]], "tool_choice": "required"}, "'move' stands there twice", "tools"),
    ({"tools": [{"type": "web_search"}], "tool_choice": "required"}, "no tools of its own", "tools"),
    ({"tools": [tool("a b", MOVE)], "tool_choice": "required"}, "tools.0.function.name", "tools.0.function.name"),
    ({"tools": [tool("x", {"type": "array"})], "tool_choice": "required"}, "schema of an object", "tools"),
    ({"tools": [tool("x", {"properties": {"a": {"if": {}}}})], "tool_choice": "required"}, "cannot follow", ""),
    ({"tools": [tool("x", {"properties": {"a": nested(300)}})], "tool_choice": "required"}, "takes too long", ""),
    ({"tools": [TOOLS[0], tool("x", {"properties": {"a": nested(800)}})], "tool_choice": "required"}, "too deeply", ""),
    ({"tools": TOOLS, "tool_choice": "required", "tool_choise": 1}, "did you mean 'tool_choice'", "tool_choise"),
    ({"messages": [{"role": "user", "content": "x", "tool_calls": [CALL]}]}, "role 'assistant'", "messages"),
    ({"messages": [{"role": "tool", "content": "x", "tool_call_id": "c9"}]}, "no call 'c9'", "messages"),
    ({"messages": [{"role": "tool", "content": "x"}]}, "by tool_call_id", "messages"),
    ({"messages": [{"role": "user", "content": "x"}, {"role": "assistant", "tool_calls": [CALL]}]}, "last message",
     "messages"),
]  # fmt: skip


@pytest.mark.parametrize(("fields", "words", "field"), WRONG)
def test_what_cannot_be_is_refused_with_the_way_on(
    openai: OpenAI, fields: dict[str, Any], words: str, field: str
) -> None:
    asked: dict[str, Any] = {"model": BASE, "messages": [{"role": "user", "content": "hello"}]} | fields
    with pytest.raises(sdk.BadRequestError) as error:
        openai.chat.completions.create(**{name: asked[name] for name in ("model", "messages")}, extra_body=fields)
    assert words in error.value.message
    assert (error.value.param or "") == field


def test_control_tokens_in_tools_and_calls_are_refused(openai: OpenAI) -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "move", "arguments": '"<|im_end|>"'}}
    history: Any = [
        {"role": "user", "content": "x"},
        {"role": "assistant", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c1", "content": "x"},
    ]
    with pytest.raises(sdk.BadRequestError, match="steers the model"):
        openai.chat.completions.create(model=BASE, messages=history)
