"""Tools in prompts, where the template has a place for them: the ids are the processor's own."""

import copy
from typing import Any

import pytest

from app.errors import BadRequest
from app.models.loading import LoadedModel
from app.models.prompt import Message, PromptRenderer
from app.models.structured.tools import Tool, ToolCall

# Qwen2.5's way with tools, shortened
TEMPLATE = """
{%- if tools %}<|im_start|>system
# Tools
{% for tool in tools %}{{ tool | tojson }}
{% endfor %}Write calls as <tool_call>{"name": …, "arguments": …}</tool_call><|im_end|>
{% endif %}
{%- for turn in messages -%}
<|im_start|>{{ "user" if turn.role == "tool" else turn.role }}
{% if turn.role == "tool" %}<tool_response>{% endif %}
{%- if turn.content is string %}{{ turn.content }}{% else %}{% for part in turn.content %}
{%- if part.type == "audio" %}<|audio_bos|><|AUDIO|><|audio_eos|>{% else %}{{ part.text }}{% endif %}
{%- endfor %}{% endif %}
{%- for call in turn.tool_calls or [] %}<tool_call>{{ call.function | tojson }}</tool_call>{% endfor %}
{%- if turn.role == "tool" %}</tool_response>{% endif %}<|im_end|>
{% endfor %}
{%- if add_generation_prompt %}<|im_start|>assistant
{% endif -%}
"""
MOVE = Tool("move", "Go somewhere.", {"type": "object", "properties": {"steps": {"type": "integer"}}})
HISTORY = (
    Message("user", ("go",)),
    Message("assistant", ("Well.",), (ToolCall("move", '{"steps": 2}'), ToolCall("move", "{cut off"))),
    Message("tool", ("moved",), result_of="move"),
    Message("user", ("and now?",)),
)
CALLS = '{"name": "move", "arguments": {"steps": 2}}\n{"name": "move", "arguments": "{cut off"}'
TURNS: list[dict[str, Any]] = [
    {"role": "user", "content": "go"},
    {
        "role": "assistant",
        "content": "Well.",
        "tool_calls": [
            {"type": "function", "function": {"name": "move", "arguments": {"steps": 2}}},
            {"type": "function", "function": {"name": "move", "arguments": "{cut off"}},
        ],
    },
    {"role": "tool", "content": "moved"},
    {"role": "user", "content": "and now?"},
]


@pytest.fixture(scope="module")
def processor(loaded: LoadedModel) -> Any:
    processor = copy.copy(loaded.processor)
    processor.chat_template = TEMPLATE
    return processor


def test_tools_calls_and_results_stand_where_the_template_puts_them(processor: Any) -> None:
    renderer = PromptRenderer(processor)
    assert renderer.knows_tools
    function = {"name": "move", "description": "Go somewhere.", "parameters": dict(MOVE.parameters)}
    text = processor.apply_chat_template(
        TURNS, tools=[{"type": "function", "function": function}], add_generation_prompt=True, tokenize=False
    )
    assert '"name": "move"' in text
    expected = processor.tokenizer(text, add_special_tokens=False)["input_ids"]
    assert renderer.render(HISTORY, tools=[MOVE]) == expected


def test_without_tools_the_prompt_shows_none(processor: Any) -> None:
    renderer = PromptRenderer(processor)
    text = processor.apply_chat_template(TURNS[:1], add_generation_prompt=True, tokenize=False)
    assert "# Tools" not in text
    assert renderer.render(HISTORY[:1]) == processor.tokenizer(text, add_special_tokens=False)["input_ids"]


def test_a_template_without_a_place_gets_text(loaded: LoadedModel) -> None:
    renderer = PromptRenderer(loaded.processor)
    assert not renderer.knows_tools
    words = (
        Message("user", ("go",)),
        Message("assistant", ("Well." + CALLS,)),
        Message("user", ("Result of move: moved",)),
        Message("user", ("and now?",)),
    )  # fmt: skip
    assert renderer.render(HISTORY, tools=[MOVE]) == renderer.render(words)


@pytest.mark.parametrize(
    "tool",
    [
        Tool("move", "<|im_end|>", {}),
        Tool("move", "", {"description": "<|im_start|>"}),
        Tool("move", "<|im_", {"x": {"<|AUDIO|>": 1}}),
    ],
)
def test_control_tokens_in_tools_are_refused(processor: Any, tool: Tool) -> None:
    with pytest.raises(BadRequest, match="steers the model"):
        PromptRenderer(processor).render(HISTORY[:1], tools=[tool])


def test_control_tokens_put_together_by_a_template_are_refused(loaded: LoadedModel) -> None:
    processor = copy.copy(loaded.processor)
    processor.chat_template = TEMPLATE.replace(
        "{{ tool | tojson }}", "{{ tool.function.name }}{{ tool.function.description }}"
    )
    with pytest.raises(BadRequest, match="steers the model"):
        PromptRenderer(processor).render(HISTORY[:1], tools=[Tool("<|im_", "start|>", {})])
