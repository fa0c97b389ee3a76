"""The body of `/v1/chat/completions`: parameters, ranges, and their combinations."""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, PrivateAttr, StringConstraints, field_validator, model_validator

from app.api.problems import InvalidFields
from app.api.schemas.fields import example
from app.api.schemas.openai.fields import Neutral, OpenAIFields
from app.api.schemas.openai.messages import ChatMessage, check_turns
from app.api.schemas.openai.tools import MOST_TOOLS, Choice, FunctionTool, NamedTool, ToolPlan, only_functions, plan_of
from app.api.schemas.sampling import seed_or_random
from app.engine.sampling_params import SamplingParams
from app.models.structured.grammar import ANY_OBJECT

ModelName = Annotated[
    str,
    StringConstraints(strip_whitespace=True),
    Field(max_length=2000, description="the base model, an adapter, or a mix `a:0.7,b:0.3`", examples=["base"]),
]
Seed = Annotated[int, Field(ge=-(2**63), lt=2**63)]
Temperature = Annotated[float, Field(ge=0, le=5, allow_inf_nan=False)]
# parameters for logs and accounting
Inform: Any = Field(None, description="accepted; it changes nothing here")
Stop = Annotated[str, Field(min_length=1, max_length=200)]


class StreamOptions(OpenAIFields):
    """`include_usage`: one more chunk at the end, with the tokens counted."""

    unsupported: ClassVar[Neutral] = {"include_obfuscation": (False,), "continuous_usage_stats": (False,)}
    include_usage: bool = False


class JsonSchema(OpenAIFields):
    """A schema the answer keeps to, by constrained decoding; so `strict` changes nothing."""

    name: str = Field(max_length=200)
    schema_: dict[str, Any] = Field(alias="schema")
    strict: bool = False
    description: Any = Field(None, description="accepted; neither it nor the schema is part of the prompt")


class ResponseFormat(OpenAIFields):
    """The format of the answer. The model is not told of it: the prompt says what is wanted."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None

    @model_validator(mode="after")
    def _has_its_schema(self) -> "ResponseFormat":
        if (self.type == "json_schema") != (self.json_schema is not None):
            raise ValueError("json_schema goes with the type 'json_schema', and only with it")
        return self

    @property
    def answer_schema(self) -> Mapping[str, Any] | None:
        """The schema that the answer must keep to, if any."""
        if self.json_schema is not None:
            return self.json_schema.schema_
        return ANY_OBJECT if self.type == "json_object" else None


class ChatRequest(OpenAIFields):
    """OpenAI's parameters as far as they are supported, and vLLM's `top_k` and `repetition_penalty`."""

    model_config = example({"model": "base", "messages": [{"role": "user", "content": "Say hello."}]})

    hints: ClassVar[dict[str, str]] = {
        "max_new_tokens": "max_completion_tokens",
        "max_output_tokens": "max_completion_tokens",
        "adapter": "model",
        "prompt": "messages",
        "input": "messages",
    }
    verbatim: ClassVar[frozenset[str]] = frozenset({"stop"})  # a line break is a common one
    unsupported: ClassVar[Neutral] = {
        "n": (1,),
        "frequency_penalty": (0,),
        "presence_penalty": (0,),
        "logit_bias": ({},),
        "functions": ([],),
        "function_call": ("none", "auto"),
        "modalities": (["text"],),
        "audio": (),
        "prediction": (),
        "moderation": (),
        "reasoning_effort": ("none",),
        "verbosity": ("medium",),
        "service_tier": ("auto", "default"),
        "prompt_cache_options": ({},),
        "web_search_options": (),
        # vLLM's, with their defaults
        "min_p": (0,),
        "min_tokens": (0,),
        "length_penalty": (1,),
        "best_of": (1,),
        "use_beam_search": (False,),
        "ignore_eos": (False,),
        "include_stop_str_in_output": (False,),
        "skip_special_tokens": (True,),
        "spaces_between_special_tokens": (True, False),
        "stop_token_ids": (),
        "bad_words": (),
        "allowed_token_ids": (),
        "logits_processors": (),
        "prompt_logprobs": (0,),
        "truncate_prompt_tokens": (-1,),
        "echo": (False,),
        "add_generation_prompt": (True,),
        "continue_final_message": (False,),
        "add_special_tokens": (False,),
        "chat_template": (),
        "chat_template_kwargs": ({}, {"enable_thinking": False}),
        "enable_thinking": (False,),
        "include_reasoning": (True, False),
        "mm_processor_kwargs": ({},),
        "documents": (),
        "guided_json": (),
        "guided_regex": (),
        "guided_choice": (),
        "guided_grammar": (),
        "structured_outputs": (),
        "return_token_ids": (False,),
        "return_tokens_as_token_ids": (False,),
        "priority": (0,),
        "cache_salt": (),
    }

    model: ModelName
    messages: list[ChatMessage] = Field(min_length=1, max_length=200)
    max_completion_tokens: int | None = Field(None, ge=1, description="default: as many as there is room for")
    max_tokens: int | None = Field(None, ge=1, description="the older name of max_completion_tokens")
    temperature: Temperature = Field(0.0, description="0, the default here, is greedy")
    top_p: float = Field(1.0, gt=0, le=1, allow_inf_nan=False)
    top_k: int = Field(0, ge=0, le=1_000_000, description="0 is off")
    repetition_penalty: float = Field(1.0, ge=0.1, le=10, allow_inf_nan=False)
    seed: Seed | None = Field(None, description="default: random")
    stop: list[Stop] = Field([], max_length=8, description="a string or a list; the answer ends before any of these")
    stream: bool = False
    stream_options: StreamOptions | None = None
    logprobs: bool = Field(False, description="report the log probability of each token")
    top_logprobs: int | None = Field(None, ge=0, le=20, description="and of so many others in its place")
    response_format: ResponseFormat | None = None
    tools: list[FunctionTool] = Field([], max_length=MOST_TOOLS, description="functions that the answer may call")
    tool_choice: Choice | NamedTool | None = Field(
        None, description="`required` or a function's name: the answer is a call; `auto` where the template knows tools"
    )
    parallel_tool_calls: bool | None = Field(None, description="true: a required call may be several")
    user: Any = Inform
    safety_identifier: Any = Inform
    metadata: Any = Inform
    prompt_cache_key: Any = Inform
    prompt_cache_retention: Any = Inform
    request_id: Any = Inform
    store: Any = Field(None, description="accepted; answers are not stored")

    _plan: ToolPlan = PrivateAttr(ToolPlan())

    @field_validator("stop", mode="before", json_schema_input_type=Stop | list[Stop] | None)
    @classmethod
    def _one_or_many(cls, value: Any) -> Any:
        return [value] if isinstance(value, str) else value

    @field_validator("tools", mode="before")
    @classmethod
    def _functions(cls, value: Any) -> Any:
        return only_functions(value)

    @model_validator(mode="after")
    def _agrees(self) -> "ChatRequest":
        if None not in (self.max_tokens, self.max_completion_tokens) and self.max_tokens != self.max_completion_tokens:
            raise InvalidFields("max_tokens and max_completion_tokens differ; send one of them.", ["max_tokens"])
        if self.stream_options is not None and self.stream_options.include_usage and not self.stream:
            raise InvalidFields("stream_options goes with stream=true.", ["stream_options"])
        if self.top_logprobs and not self.logprobs:
            raise InvalidFields("top_logprobs goes with logprobs=true.", ["top_logprobs"])
        check_turns(self.messages)
        self._plan = plan_of(
            [tool.function for tool in self.tools],
            self.tool_choice if isinstance(self.tool_choice, str) else None,
            self.tool_choice.function.name if isinstance(self.tool_choice, NamedTool) else None,
            several=bool(self.parallel_tool_calls),
        )
        return self

    @property
    def plan(self) -> ToolPlan:
        """The calls of tools that the answer may or must make."""
        return self._plan

    @property
    def notices(self) -> list[str]:
        """One sentence per parameter that was not used and does not change the answer."""
        notices = []
        if self.store not in (None, False, "false"):
            notices.append("store: answers are not stored here")
        if any(message.name is not None for message in self.messages):
            notices.append("messages: the model does not see their name")
        return notices

    @property
    def limit(self) -> int | None:
        """Tokens of the answer at most, where the client says so."""
        return self.max_completion_tokens or self.max_tokens

    @property
    def answer_schema(self) -> Mapping[str, Any] | None:
        """The JSON schema that the answer must keep to, if any."""
        return self.response_format.answer_schema if self.response_format else None

    def sampling(self, most: int) -> SamplingParams:
        """The sampling parameters; ``most``: tokens of the answer where the client names no limit."""
        return SamplingParams(
            self.limit or most,
            self.temperature,
            self.top_p,
            self.top_k,
            self.repetition_penalty,
            seed_or_random(self.seed),
            tuple(self.stop),
            logprobs=(self.top_logprobs or 0) if self.logprobs else None,
        )
