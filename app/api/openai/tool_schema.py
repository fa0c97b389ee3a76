"""The JSON schema of an answer that calls tools."""

from collections.abc import Mapping
from typing import Any

from app.api.schemas.openai.tools import MOST_CALLS, ToolPlan

# whose values are data, not schemas
_DATA = frozenset({"const", "enum", "default", "examples"})


def schema_of(plan: ToolPlan) -> Mapping[str, Any] | None:
    """Of the whole answer: the arguments of a named tool; `{"name", "arguments"}` of a required one, or a list of them.

    None where the answer is not constrained.
    """
    if plan.mode == "named":
        return plan.tools[0].parameters
    if plan.mode != "required":
        return None
    places = {f"tool{number}": tool for number, tool in enumerate(plan.tools)}
    calls = [
        {
            "type": "object",
            "properties": {"name": {"const": tool.name}, "arguments": {"$ref": f"#/$defs/{place}"}},
            "required": ["name", "arguments"],
            "additionalProperties": False,
        }
        for place, tool in places.items()
    ]
    defined = {"$defs": {place: _moved(tool.parameters, f"#/$defs/{place}") for place, tool in places.items()}}
    if plan.several:
        return {"type": "array", "items": {"anyOf": calls}, "minItems": 1, "maxItems": MOST_CALLS, **defined}
    return {"anyOf": calls, **defined}


def _moved(schema: Any, to: str) -> Any:
    """A schema with its references to itself as they are when it stands at ``to``."""
    if isinstance(schema, list):
        return [_moved(one, to) for one in schema]
    if not isinstance(schema, Mapping):
        return schema
    return {name: _value(name, value, to) for name, value in schema.items()}


def _value(name: str, value: Any, to: str) -> Any:
    if name == "$ref" and isinstance(value, str):
        return f"{to}{value[1:]}" if value == "#" or value.startswith("#/") else value
    return value if name in _DATA else _moved(value, to)
