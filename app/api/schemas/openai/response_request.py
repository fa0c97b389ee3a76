"""The body of `/v1/responses`: parameters, ranges, and their combinations."""

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field, PrivateAttr, field_validator, model_validator

from app.api.problems import InvalidFields
from app.api.schemas.fields import example
from app.api.schemas.openai.chat_request import Inform, ModelName, Seed, Temperature
from app.api.schemas.openai.fields import Neutral, OpenAIFields
from app.api.schemas.openai.messages import ChatMessage, check_turns
from app.api.schemas.openai.response_items import Item, messages_of
from app.api.schemas.openai.tools import (
    MOST_TOOLS,
    Choice,
    FunctionName,
    FunctionSpec,
    ToolPlan,
    only_functions,
    plan_of,
)
from app.api.schemas.requests import Text
from app.api.schemas.sampling import seed_or_random
from app.engine.sampling_params import SamplingParams
from app.models.structured.grammar import ANY_OBJECT


class ResponseTool(FunctionSpec):
    """A function that the model may call."""

    type: Literal["function"]


class NamedFunction(FunctionName):
    """The one function that the answer must call."""

    type: Literal["function"]


class TextFormat(OpenAIFields):
    """How the answer is written; with a schema it is constrained while it is written."""

    type: Literal["text", "json_object", "json_schema"]
    name: str | None = Field(None, max_length=200)
    schema_: dict[str, Any] | None = Field(None, alias="schema")
    strict: bool = False
    description: Any = Field(None, description="accepted; neither it nor the schema is part of the prompt")

    @model_validator(mode="after")
    def _has_its_schema(self) -> "TextFormat":
        if (self.type == "json_schema") != (self.schema_ is not None):
            raise ValueError("schema goes with the type 'json_schema', and only with it")
        return self

    @property
    def answer_schema(self) -> Mapping[str, Any] | None:
        """The schema that the answer must keep to, if any."""
        return ANY_OBJECT if self.type == "json_object" else self.schema_


class TextOptions(OpenAIFields):
    """`text` of a request."""

    unsupported: ClassVar[Neutral] = {"verbosity": ("medium",)}
    format: TextFormat | None = None


class ResponseStreamOptions(OpenAIFields):
    """None of them has a use here."""

    unsupported: ClassVar[Neutral] = {"include_obfuscation": (False,)}


class ReasoningOptions(OpenAIFields):
    """The models here do not reason apart from their answer."""

    unsupported: ClassVar[Neutral] = {"effort": ("none",), "summary": (), "generate_summary": ()}


class ResponseRequest(OpenAIFields):
    """OpenAI's parameters as far as they are supported. Nothing is stored: `input` holds the whole conversation."""

    model_config = example({"model": "base", "input": "Say hello."})
    hints: ClassVar[dict[str, str]] = {
        "messages": "input",
        "max_tokens": "max_output_tokens",
        "max_completion_tokens": "max_output_tokens",
        "response_format": "text",
        "system": "instructions",
        "adapter": "model",
    }
    unsupported: ClassVar[Neutral] = {
        "previous_response_id": (),
        "conversation": (),
        "background": (False,),
        "background_options": (),
        "context_management": (),
        "include": ([], ["reasoning.encrypted_content"]),
        "image": (),
        "moderation": (),
        "prompt": (),
        "prompt_cache_options": ({},),
        "access_programs": (),
        "service_tier": ("auto", "default"),
        "top_logprobs": (0,),
        "truncation": ("disabled",),
    }

    model: ModelName
    input: list[Item] = Field(max_length=400, description="words, or messages, calls of functions and their results")
    instructions: Text | None = Field(None, description="the system message")
    max_output_tokens: int | None = Field(None, ge=1, description="default: as many as there is room for")
    temperature: Temperature = Field(0.0, description="0, the default here, is greedy")
    top_p: float = Field(1.0, gt=0, le=1, allow_inf_nan=False)
    top_k: int = Field(0, ge=0, le=1_000_000, description="0 is off")
    repetition_penalty: float = Field(1.0, ge=0.1, le=10, allow_inf_nan=False)
    seed: Seed | None = Field(None, description="default: random")
    stream: bool = False
    stream_options: ResponseStreamOptions | None = None
    text: TextOptions | None = None
    reasoning: ReasoningOptions | None = None
    tools: list[ResponseTool] = Field([], max_length=MOST_TOOLS, description="functions that the answer may call")
    tool_choice: Choice | NamedFunction | None = Field(
        None, description="`required` or a function's name: the answer is a call; `auto` where the template knows tools"
    )
    parallel_tool_calls: bool | None = Field(None, description="true: a required call may be several")
    metadata: dict[str, str] | None = Field(None, max_length=16, description="repeated in the answer")
    max_tool_calls: Any = Inform
    user: Any = Inform
    safety_identifier: Any = Inform
    prompt_cache_key: Any = Inform
    prompt_cache_retention: Any = Inform
    store: Any = Field(None, description="accepted; answers are not stored")

    _messages: list[ChatMessage] = PrivateAttr([])
    _plan: ToolPlan = PrivateAttr(ToolPlan())

    @field_validator("input", mode="before", json_schema_input_type=str | list[Item])
    @classmethod
    def _words(cls, value: Any) -> Any:
        return [{"role": "user", "content": value}] if isinstance(value, str) else value

    @field_validator("tools", mode="before")
    @classmethod
    def _functions(cls, value: Any) -> Any:
        return only_functions(value)

    @classmethod
    def _refusal(cls, name: str) -> str:
        if name in ("previous_response_id", "conversation"):
            return f"{name}: answers are not stored here; send the whole conversation as input."
        return super()._refusal(name)

    @model_validator(mode="after")
    def _agrees(self) -> "ResponseRequest":
        if not self.input:
            raise InvalidFields("input is empty; there is nothing to answer.", ["input"])
        self._messages = messages_of(self.input, self.instructions)
        check_turns(self._messages, "input")
        self._plan = plan_of(
            self.tools,
            self.tool_choice if isinstance(self.tool_choice, str) else None,
            self.tool_choice.name if isinstance(self.tool_choice, NamedFunction) else None,
            several=bool(self.parallel_tool_calls),
        )
        return self

    @property
    def messages(self) -> list[ChatMessage]:
        """The conversation, with the instructions as its system message."""
        return self._messages

    @property
    def plan(self) -> ToolPlan:
        """The calls of tools that the answer may or must make."""
        return self._plan

    @property
    def notices(self) -> list[str]:
        """One sentence per parameter that was not used and does not change the answer."""
        stored = self.store not in (None, False, "false")
        return ["store: answers are not stored here; send the whole conversation each time"] if stored else []

    @property
    def answer_schema(self) -> Mapping[str, Any] | None:
        """The JSON schema that an answer in words must keep to, if any."""
        return self.text.format.answer_schema if self.text and self.text.format else None

    def sampling(self, most: int) -> SamplingParams:
        """The sampling parameters; ``most``: tokens of the answer where the client names no limit."""
        return SamplingParams(
            self.max_output_tokens or most,
            self.temperature,
            self.top_p,
            self.top_k,
            self.repetition_penalty,
            seed_or_random(self.seed),
        )
