"""Tools of a request: functions, the choice among them, and calls in a history."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from pydantic import Field

from app.api.problems import InvalidFields
from app.api.schemas.openai.fields import Neutral, OpenAIFields, UnsupportedParameter
from app.api.schemas.requests import Text
from app.models.structured.tools import Tool

MOST_TOOLS = 128
MOST_CALLS = 8  # in one answer, where `parallel_tool_calls` allows several
NAME = r"^[a-zA-Z0-9_-]{1,64}$"
NO_ARGUMENTS = {"type": "object", "properties": {}, "additionalProperties": False}
NO_CHOICE = (
    "tool_choice: this model's chat template knows no tools, so the model cannot choose whether to call one. Send "
    '\'required\', or name one as {"type": "function", …}: the answer is then a call that keeps to its schema. '
    "'none' answers in words."
)
UNSEEN = "tools: the model's template has no place for them; say in the messages what the tools are for"
AS_TEXT = "messages: the model's template knows no tools; earlier calls and their results are in the prompt as text"


class FunctionSpec(OpenAIFields):
    """A function that the model may call; its arguments keep to ``parameters`` whether or not `strict` says so."""

    name: str = Field(pattern=NAME, examples=["move"])
    description: Text = ""
    parameters: dict[str, Any] | None = Field(
        None, description="JSON schema of an object; without one, the function has no arguments"
    )
    strict: bool = False

    def tool(self) -> Tool:
        """Raises InvalidFields for parameters that are no object."""
        parameters = {"type": "object", **(self.parameters or NO_ARGUMENTS)}
        if parameters["type"] != "object":
            raise InvalidFields(f"tools: the parameters of {self.name!r} must be a schema of an object.", ["tools"])
        return Tool(self.name, self.description, parameters)


class FunctionTool(OpenAIFields):
    """A tool; other types than functions are not known."""

    type: Literal["function"]
    function: FunctionSpec


class FunctionName(OpenAIFields):
    """A function by its name."""

    name: str = Field(max_length=200)


class NamedTool(OpenAIFields):
    """The one function that the answer must call."""

    type: Literal["function"]
    function: FunctionName


class CalledFunction(OpenAIFields):
    """A function with the arguments that an answer had."""

    name: str = Field(pattern=NAME)
    arguments: Text = Field("{}", description="JSON text")


class AssistantCall(OpenAIFields):
    """A call in an answer that is sent back."""

    unsupported: ClassVar[Neutral] = {"index": (0, 1, 2, 3, 4, 5, 6, 7)}

    id: str = Field(max_length=200)
    type: Literal["function"] = "function"
    function: CalledFunction


def only_functions(value: Any) -> Any:
    """The tools as they came. Raises UnsupportedParameter for one of another type."""
    for one in value if isinstance(value, list) else ():
        kind = one.get("type") if isinstance(one, dict) else "function"
        if kind is not None and kind != "function":
            raise UnsupportedParameter(
                f"tools: this server runs no tools of its own, such as {str(kind)[:40]!r}; send functions, as "
                '{"type": "function", …}.',
                ["tools"],
            )
    return value


Choice = Literal["none", "auto", "required"]
Mode = Literal["text", "auto", "required", "named"]


@dataclass(frozen=True)
class ToolPlan:
    """The calls that an answer may or must make.

    ``text``: none; ``auto``: text or calls, as the model writes them; ``required``: one of ``tools``, or several where
    ``several`` is true; ``named``: the only one of ``tools``.
    """

    mode: Mode = "text"
    tools: tuple[Tool, ...] = ()
    several: bool = False

    @property
    def constrained(self) -> bool:
        """True where a grammar makes the answer a call."""
        return self.mode in ("required", "named")

    def check(self, knows_tools: bool, formatted: bool) -> None:
        """Raises UnsupportedParameter where a model must choose by itself and cannot.

        ``formatted``: the request asks for JSON as well.
        """
        if self.mode == "auto" and not knows_tools:
            raise UnsupportedParameter(NO_CHOICE, ["tool_choice"])
        if self.mode == "auto" and formatted:
            raise UnsupportedParameter(
                "tools with tool_choice 'auto' and a format of JSON do not go together here; send one of them, or "
                "tool_choice 'required'.",
                ["tool_choice"],
            )


def plan_of(
    functions: Sequence[FunctionSpec], choice: Choice | str | None, named: str | None, several: bool
) -> ToolPlan:
    """The plan of a request; ``named``: the function that `tool_choice` names. Raises InvalidFields."""
    tools = tuple(function.tool() for function in functions)
    names = [tool.name for tool in tools]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise InvalidFields(f"tools: {twice[0]!r} stands there twice; give each function a name of its own.", ["tools"])
    if named is not None:
        if named not in names:
            known = ", ".join(names) or "none"
            raise InvalidFields(
                f"tool_choice names {named[:80]!r}, which is not among the tools: {known}.", ["tool_choice"]
            )
        return ToolPlan("named", tuple(tool for tool in tools if tool.name == named))
    if choice == "required":
        if not tools:
            raise InvalidFields("tool_choice is 'required', and there are no tools; send some.", ["tool_choice"])
        return ToolPlan("named" if len(tools) == 1 and not several else "required", tools, several)
    return ToolPlan("auto", tools) if tools and choice != "none" else ToolPlan()
