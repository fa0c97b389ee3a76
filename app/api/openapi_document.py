"""`/openapi.json` as generators of clients need it: short names, uploads as files, an example of each body."""

from collections.abc import Iterator
from typing import Any

from fastapi import FastAPI
from fastapi.routing import APIRoute

MULTIPART = "multipart/form-data"
FILES = ("application/zip", "audio/")  # answers that are files


def operation_id(route: APIRoute) -> str:
    """The name of the route's function, which is also that of a generated client's method."""
    return route.name


def install(app: FastAPI) -> None:
    """Have ``app`` write its document so."""
    written = app.openapi

    def document() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = _adapted(written())
        return app.openapi_schema

    app.openapi = document  # type: ignore[method-assign]


def _adapted(document: dict[str, Any]) -> dict[str, Any]:
    for schema in _objects(document):
        if schema.get("contentMediaType") == "application/octet-stream":
            schema["format"] = "binary"  # OpenAPI 3.0's word for a file, which most generators know alone
    schemas = document["components"]["schemas"]
    for operation in (operation for methods in document["paths"].values() for operation in methods.values()):
        content = operation.get("requestBody", {}).get("content", {})
        for kind, body in content.items():
            schema = _resolved(body["schema"], schemas)
            if kind == MULTIPART:
                _without_null(schema)
            if "examples" in schema:
                body.setdefault("example", schema["examples"][0])
        for response in operation["responses"].values():
            for kind, body in response.get("content", {}).items():
                if kind.startswith(FILES):
                    body.setdefault("schema", {"type": "string", "format": "binary"})
    return document


def _without_null(form: dict[str, Any]) -> None:
    """A form's field has no null: it is left out."""
    for field in form.get("properties", {}).values():
        kinds = [one for one in field.get("anyOf", ()) if one != {"type": "null"}]
        if len(kinds) == 1 and len(kinds) < len(field["anyOf"]):
            del field["anyOf"]
            field.update(kinds[0])


def _resolved(schema: dict[str, Any], schemas: dict[str, Any]) -> dict[str, Any]:
    for one in schema.get("anyOf", [schema]):
        if "$ref" in one:
            found: dict[str, Any] = schemas[one["$ref"].rpartition("/")[2]]
            return found
    return schema


def _objects(value: Any) -> Iterator[dict[str, Any]]:
    """All objects in a JSON value."""
    if isinstance(value, dict):
        yield value
    if isinstance(value, dict | list):
        for one in value.values() if isinstance(value, dict) else value:
            yield from _objects(one)
