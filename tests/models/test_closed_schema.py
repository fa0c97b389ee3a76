"""Objects that name their properties and leave the rest unsaid hold no others."""

from typing import Any

import jsonschema
import pytest
from pydantic import BaseModel, ConfigDict

from app.models.structured.closed_schema import closed


class Inner(BaseModel):
    x: int
    properties: dict[str, int] = {}


class Open(BaseModel):
    model_config = ConfigDict(extra="allow")
    y: int


class Outer(BaseModel):
    one: Inner
    many: list[Inner]
    either: Inner | None
    open: Open


GOOD: dict[str, Any] = {
    "one": {"x": 1, "properties": {"free": 1}}, "many": [{"x": 2}], "either": {"x": 3}, "open": {"y": 4, "more": 5},
}  # fmt: skip
BAD: list[dict[str, Any]] = [
    {"more": 1}, {"one": {"x": 1, "more": 1}}, {"many": [{"x": 1, "more": 1}]}, {"either": {"x": 1, "more": 1}},
]  # fmt: skip


def test_what_is_named_stays_and_nothing_else() -> None:
    schema = Outer.model_json_schema()
    tight = dict(closed(schema))
    jsonschema.validate(GOOD, schema)
    jsonschema.validate(GOOD, tight)
    for change in BAD:
        jsonschema.validate(GOOD | change, schema)
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(GOOD | change, tight)
    assert schema == Outer.model_json_schema(), "the caller's own is left alone"


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "object"},
        {"type": "object", "properties": {}},
        {"properties": {"a": {}}, "additionalProperties": True},
        {"properties": {"a": {}}, "patternProperties": {"^b": {}}},
        {"allOf": [{"properties": {"a": {}}}, {"properties": {"b": {}}}]},
        {"properties": {"a": {}}, "anyOf": [{"properties": {"b": {}}}, {"required": ["c"]}]},
        {"$ref": "#/$defs/a", "properties": {"b": {}}, "$defs": {"a": {"properties": {"a": {}}}}},
        {"if": {"properties": {"a": {"const": 1}}}, "then": {"properties": {"b": {}}}},
        {"const": {"properties": {"a": 1}}},
        {"enum": [{"properties": {"a": 1}}]},
    ],
)
def test_what_says_otherwise_or_composes_stays_as_it_is(schema: dict[str, Any]) -> None:
    assert closed(schema) == schema


def test_a_property_may_have_a_keywords_name() -> None:
    schema = {"properties": {"allOf": {"type": "string"}, "properties": {"properties": {"a": {}}}}}
    inner = {"properties": {"a": {}}, "additionalProperties": False}
    assert closed(schema) == {
        "properties": {"allOf": {"type": "string"}, "properties": inner},
        "additionalProperties": False,
    }
