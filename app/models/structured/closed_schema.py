"""JSON schemas without room for properties that they do not name."""

from collections.abc import Iterator, Mapping
from typing import Any

# With these, what an object may hold is said in several places, none of which knows all names
_COMPOSED = frozenset({"allOf", "if", "then", "else", "not", "dependentSchemas", "unevaluatedProperties"})
_BESIDE = frozenset({"$ref", "$dynamicRef", "anyOf", "oneOf"})  # beside `properties`, likewise
_OPEN = frozenset({"additionalProperties", "patternProperties"})
_DATA = frozenset({"const", "enum", "default", "examples"})  # whose values are no schemas
_NAMED = frozenset({"properties", "$defs", "definitions"})  # whose values are schemas by free names


def closed(schema: Mapping[str, Any]) -> Mapping[str, Any]:
    """The schema with `additionalProperties: false` on each object that names properties and leaves the rest unsaid.

    What fits it also fits ``schema``. Without the bound an answer may go on with made-up properties until it is cut
    off. Schemas that compose objects of several parts are returned as they are.
    """
    if any(_COMPOSED & one.keys() or ("properties" in one and _BESIDE & one.keys()) for one in _schemas(schema)):
        return schema
    found: Mapping[str, Any] = _closed(schema)
    return found


def _closed(schema: Any) -> Any:
    if isinstance(schema, list):
        return [_closed(one) for one in schema]
    if not isinstance(schema, Mapping):
        return schema
    inner = {
        name: {key: _closed(one) for key, one in value.items()}
        if name in _NAMED and isinstance(value, Mapping)
        else value
        if name in _DATA
        else _closed(value)
        for name, value in schema.items()
    }
    names = schema.get("properties")
    return inner | {"additionalProperties": False} if names and not _OPEN & schema.keys() else inner


def _schemas(value: Any) -> Iterator[Mapping[str, Any]]:
    """All schemas within one."""
    if isinstance(value, list):
        for one in value:
            yield from _schemas(one)
    elif isinstance(value, Mapping):
        yield value
        for name, one in value.items():
            if name in _NAMED and isinstance(one, Mapping):
                yield from _schemas(list(one.values()))
            elif name not in _DATA:
                yield from _schemas(one)
