"""Tools in a conversation: functions that an answer may call, calls in earlier turns, and their results."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

BEGIN, END = "<tool_call>", "</tool_call>"  # around a call, in templates of Hermes' kind, such as Qwen's


@dataclass(frozen=True)
class Tool:
    """A function that an answer may call. ``parameters``: JSON schema of its arguments, an object."""

    name: str
    description: str
    parameters: Mapping[str, Any]

    def for_template(self) -> dict[str, Any]:
        """As chat templates read it."""
        function = {"name": self.name, "description": self.description, "parameters": dict(self.parameters)}
        return {"type": "function", "function": function}


@dataclass(frozen=True)
class ToolCall:
    """A call in an earlier turn. ``arguments``: JSON text, as the model wrote it."""

    name: str
    arguments: str

    def for_template(self) -> dict[str, Any]:
        """As chat templates read it."""
        return {"type": "function", "function": {"name": self.name, "arguments": self._arguments()}}

    def as_text(self) -> str:
        """For a model whose template has no place for it."""
        return json.dumps({"name": self.name, "arguments": self._arguments()}, ensure_ascii=False)

    def _arguments(self) -> Any:
        try:
            return json.loads(self.arguments)
        except ValueError:  # an answer that was cut off
            return self.arguments


def knows_tools(template: str) -> bool:
    """True for a chat template that shows tools and has the model write calls as `<tool_call>`."""
    return "tools" in template and BEGIN in template
