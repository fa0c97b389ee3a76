"""`/v1/responses` through the official client: the answers of chat completions, whole and in streams."""

import json
from base64 import b64encode
from typing import Any

import httpx
import jsonschema
import openai as sdk
import pytest
from openai import OpenAI

from tests.api.conftest import Running
from tests.api.openai.conftest import BASE, COMMAND, Live, heard
from tests.api.openai.test_tools import MOVE, SAY

DATA = b64encode(COMMAND.read_bytes()).decode()
ASKED: dict[str, Any] = {"type": "input_text", "text": "Transcribe the audio."}
AUDIO: dict[str, Any] = {"type": "input_audio", "input_audio": {"data": DATA, "format": "flac"}}
TOOLS: Any = [
    {"type": "function", "name": "move", "parameters": MOVE, "strict": True},
    {"type": "function", "name": "say", "parameters": SAY, "strict": False, "description": "Say it."},
]


def spoken(part: dict[str, Any] = AUDIO) -> Any:
    return [{"role": "user", "content": [part, ASKED]}]


@pytest.mark.parametrize("model", [BASE, "nato", "nato:0.7,command-json:0.3"])
def test_it_says_what_a_chat_completion_says(openai: OpenAI, model: str) -> None:
    chat = openai.chat.completions.create(model=model, messages=heard())
    answer = openai.responses.create(model=model, input=spoken())
    assert answer.output_text == chat.choices[0].message.content
    assert (answer.status, answer.error, answer.model, answer.object) == ("completed", None, model, "response")
    assert answer.id.startswith("resp_")
    (item,) = answer.output
    assert (item.type, item.status) == ("message", "completed")
    usage, told = answer.usage, chat.usage
    assert usage is not None
    assert told is not None
    assert (usage.input_tokens, usage.output_tokens) == (told.prompt_tokens, told.completion_tokens)
    assert usage.total_tokens == told.total_tokens
    assert answer.overtone["audio"][0]["container"] == "FLAC"  # type: ignore[attr-defined]


FILE: dict[str, Any] = {"type": "input_file", "filename": "a.flac", "file_data": f"data:audio/flac;base64,{DATA}"}


@pytest.mark.parametrize("part", [FILE, FILE | {"file_data": DATA, "filename": "x.pdf"}, AUDIO | {"input_audio": DATA}])
def test_recordings_in_other_parts(openai: OpenAI, part: dict[str, Any]) -> None:
    expected = openai.responses.create(model=BASE, input=spoken()).output_text
    assert openai.responses.create(model=BASE, input=spoken(part)).output_text == expected


def test_instructions_and_turns_are_the_same_conversation(openai: OpenAI) -> None:
    chat: Any = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "hello"},
        {"role": "assistant", "content": "hi"},
        {"role": "user", "content": "again"},
    ]
    expected = openai.chat.completions.create(model=BASE, messages=chat, max_tokens=9)
    first = {"type": "message", "id": "msg_1", "role": "assistant", "status": "completed",
             "content": [{"type": "output_text", "text": "hi", "annotations": []}]}  # fmt: skip
    turns: Any = [{"role": "user", "content": "hello"}, first, {"role": "user", "content": "again", "type": "message"}]
    answer = openai.responses.create(model=BASE, instructions="Be brief.", input=turns, max_output_tokens=9)
    assert answer.output_text == expected.choices[0].message.content
    assert answer.usage is not None
    assert expected.usage is not None
    assert answer.usage.input_tokens == expected.usage.prompt_tokens


def test_a_limit_makes_an_answer_incomplete(openai: OpenAI) -> None:
    answer = openai.responses.create(model=BASE, input=spoken(), max_output_tokens=2)
    assert answer.status == "incomplete"
    assert answer.incomplete_details is not None
    assert answer.incomplete_details.reason == "max_output_tokens"
    assert [item.status for item in answer.output] == ["incomplete"]
    events = list(openai.responses.create(model=BASE, input=spoken(), max_output_tokens=2, stream=True))
    assert events[-1].type == "response.incomplete"


def test_a_stream_has_the_events_of_openai(openai: OpenAI) -> None:
    whole = openai.responses.create(model=BASE, input=spoken())
    events = list(openai.responses.create(model=BASE, input=spoken(), stream=True))
    kinds = [event.type for event in events]
    deltas = kinds.count("response.output_text.delta")
    assert kinds == [
        "response.created", "response.in_progress", "response.output_item.added", "response.content_part.added",
        *["response.output_text.delta"] * deltas,
        "response.output_text.done", "response.content_part.done", "response.output_item.done", "response.completed",
    ]  # fmt: skip
    assert deltas > 1
    assert [event.sequence_number for event in events] == list(range(len(events)))
    last: Any = events[-1]
    assert last.response.output_text == whole.output_text
    assert last.response.usage == whole.usage


def test_the_clients_own_stream_adds_up(openai: OpenAI) -> None:
    with openai.responses.stream(model=BASE, input=spoken()) as stream:
        text = "".join(event.delta for event in stream if event.type == "response.output_text.delta")
        final = stream.get_final_response()
    assert text == final.output_text == openai.responses.create(model=BASE, input=spoken()).output_text


@pytest.mark.parametrize("stream", [False, True])
def test_a_format_is_kept(openai: OpenAI, stream: bool) -> None:
    form: Any = {"format": {"type": "json_schema", "name": "move", "schema": MOVE, "strict": True}}
    asked: dict[str, Any] = {
        "model": BASE,
        "input": spoken(),
        "text": form,
        "temperature": 3,
        "extra_body": {"seed": 5},
    }
    if stream:
        *_, last = openai.responses.create(**asked, stream=True)
        answer = last.response  # type: ignore[union-attr]
    else:
        answer = openai.responses.create(**asked)
    jsonschema.validate(json.loads(answer.output_text), MOVE)
    any_object: Any = {"format": {"type": "json_object"}}
    loose = openai.responses.create(model=BASE, input=spoken(), text=any_object, max_output_tokens=40)
    assert loose.status == "incomplete" or isinstance(json.loads(loose.output_text), dict)


@pytest.mark.parametrize("choice", ["required", {"type": "function", "name": "say"}])
def test_calls_of_functions(openai: OpenAI, choice: Any) -> None:
    asked: dict[str, Any] = {"model": BASE, "input": spoken(), "tools": TOOLS, "tool_choice": choice, "temperature": 2}
    whole = openai.responses.create(**asked, extra_body={"seed": 3})
    (call,) = whole.output
    assert call.type == "function_call"
    jsonschema.validate(json.loads(call.arguments), {"move": MOVE, "say": SAY}[call.name])
    assert whole.tool_choice == choice or whole.tool_choice.name == "say"  # type: ignore[union-attr]
    events = list(openai.responses.create(**asked, extra_body={"seed": 3}, stream=True))
    deltas = "".join(event.delta for event in events if event.type == "response.function_call_arguments.delta")
    (done,) = [event for event in events if event.type == "response.function_call_arguments.done"]
    assert done.arguments == deltas == call.arguments
    last: Any = events[-1]
    assert [(item.name, item.arguments) for item in last.response.output] == [(call.name, call.arguments)]
    history = [*spoken(), *whole.output, {"type": "function_call_output", "call_id": call.call_id, "output": "done"}]
    assert openai.responses.create(model=BASE, input=history, max_output_tokens=4).output[0].type == "message"


def test_calls_and_results_are_those_of_a_chat(openai: OpenAI) -> None:
    made = [{"id": one, "type": "function", "function": {"name": "move", "arguments": "{}"}} for one in ("a", "b")]
    chat: Any = [
        {"role": "user", "content": "x"},
        {"role": "assistant", "content": "Well.", "tool_calls": made},
        {"role": "tool", "tool_call_id": "a", "content": "1"},
        {"role": "tool", "tool_call_id": "b", "content": "2"},
    ]
    items: Any = [
        {"role": "user", "content": "x"},
        {"role": "assistant", "content": "Well."},
        {"type": "function_call", "call_id": "a", "name": "move", "arguments": "{}"},
        {
            "type": "function_call",
            "call_id": "b",
            "name": "move",
            "arguments": "{}",
            "id": "fc_1",
            "status": "completed",
        },
        {"type": "function_call_output", "call_id": "a", "output": "1"},
        {"type": "function_call_output", "call_id": "b", "output": [{"type": "input_text", "text": "2"}]},
    ]
    expected = openai.chat.completions.create(model=BASE, messages=chat, max_tokens=6)
    answer = openai.responses.create(model=BASE, input=items, max_output_tokens=6)
    assert answer.output_text == expected.choices[0].message.content
    assert expected.usage is not None
    assert answer.usage is not None
    assert answer.usage.input_tokens == expected.usage.prompt_tokens


def test_nothing_is_stored(openai: OpenAI) -> None:
    answer = openai.responses.create(model=BASE, input="hello", max_output_tokens=2, store=True)
    assert "not stored" in answer.overtone["warnings"][0]  # type: ignore[attr-defined]
    with pytest.raises(sdk.BadRequestError, match="send the whole conversation as input") as error:
        openai.responses.create(model=BASE, input="hello", previous_response_id=answer.id)
    assert error.value.param == "previous_response_id"
    assert error.value.code == "unsupported_parameter"
    with pytest.raises(sdk.APIStatusError):
        openai.responses.retrieve(answer.id)


PART = "input.0.message.content.0"
WRONG: list[tuple[dict[str, Any], str, str]] = [
    ({"input": ""}, "empty", "input"),
    ({"input": []}, "empty", "input"),
    ({"input": " "}, "empty", "input"),
    ({"input": [{"role": "assistant", "content": "x"}]}, "last message", "input"),
    ({"input": [{"type": "item_reference", "id": "x"}]}, "input.0", "input.0"),
    ({"input": [{"type": "reasoning", "summary": []}]}, "input.0", "input.0"),
    ({"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "x"}]}]}, "input_image", PART),
    ({"input": [{"role": "user", "content": [{"type": "input_file", "file_id": "x"}]}]}, "keeps no files",
     f"{PART}.input_file"),
    ({"input": [{"role": "user", "content": [{"type": "input_file", "file_data": "!"}]}]}, "not base64", "input"),
    ({"input": [{"type": "function_call_output", "call_id": "x", "output": "y"}]}, "no call 'x'", "input"),
    ({"messages": []}, "did you mean 'input'", "messages"),
    ({"max_tokens": 4}, "did you mean 'max_output_tokens'", "max_tokens"),
    ({"tools": TOOLS}, "cannot choose", "tool_choice"),
    ({"tools": [{"type": "web_search"}]}, "no tools of its own, such as 'web_search'", "tools"),
    ({"background": True}, "'background' is not supported", "background"),
    ({"reasoning": {"effort": "high"}}, "'effort' is not supported", "effort"),
    ({"truncation": "auto"}, "'truncation' is not supported", "truncation"),
    ({"text": {"format": {"type": "json_schema", "name": "x"}}}, "schema goes with", "text.format"),
]  # fmt: skip


@pytest.mark.parametrize(("fields", "words", "field"), WRONG)
def test_what_is_not_here_is_refused_with_the_way_on(
    plain: httpx.Client, fields: dict[str, Any], words: str, field: str
) -> None:
    refused = plain.post("/v1/responses", json={"model": BASE, "input": "hello"} | fields)
    assert refused.status_code == 400
    error = refused.json()["error"]
    assert words in error["message"]
    assert error["param"] == field


def test_every_parameter_of_the_official_client_is_known() -> None:
    from openai.types.responses import response_create_params as created

    from app.api.schemas.openai.response_request import ResponseRequest

    known = {*ResponseRequest.known(), *ResponseRequest.unsupported}
    assert {*created.ResponseCreateParamsBase.__annotations__, "stream"} <= known


def test_what_only_informs_changes_nothing(openai: OpenAI) -> None:
    plain = openai.responses.create(model=BASE, input="hello", max_output_tokens=4)
    told = openai.responses.create(
        model=BASE, input="hello", max_output_tokens=4, user="u", metadata={"a": "b"}, include=[],
        safety_identifier="x", truncation="disabled", service_tier="auto",
        prompt_cache_key="k", top_logprobs=0, tools=[], tool_choice="auto",
        reasoning={"effort": None, "summary": None}, text={"verbosity": "medium"}, parallel_tool_calls=True,
    )  # fmt: skip
    assert told.output_text == plain.output_text
    assert told.metadata == {"a": "b"}


async def test_keys_and_tenants(running: Running) -> None:
    async with running(api_keys=("user",), max_upload_mb=1) as client:
        ask: dict[str, Any] = {"model": "base", "input": "x", "max_output_tokens": 2}
        assert (await client.post("/v1/responses", json=ask)).json()["error"]["code"] == "invalid_api_key"
        key = {"Authorization": "Bearer user"}
        assert (await client.post("/v1/responses", json=ask, headers=key)).status_code == 200
        large = await client.post("/v1/responses", json=ask | {"input": "x" * (2 << 20)}, headers=key)
        assert large.status_code == 413
        gone = await client.post("/v1/responses", json=ask | {"model": "gamma"}, headers=key)
        assert gone.json()["error"]["code"] == "model_not_found"


def test_a_failure_in_a_stream_is_its_last_event(live: Live, openai: OpenAI, monkeypatch: pytest.MonkeyPatch) -> None:
    def fill(*_: Any) -> None:
        raise RuntimeError

    monkeypatch.setattr("app.models.structured.grammar.JsonGrammar.accept", fill)
    form: Any = {"format": {"type": "json_object"}}
    events = list(openai.responses.create(model=BASE, input="x", text=form, stream=True))
    last: Any = events[-1]
    assert last.type == "response.failed"
    assert last.response.error.code == "engine_fault"
