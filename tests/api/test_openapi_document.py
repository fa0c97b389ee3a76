"""`/openapi.json` as generators of clients need it."""

import re
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from app.main import create_app
from app.settings import Settings

DOCUMENT: dict[str, Any] = create_app(Settings(_env_file=None)).openapi()
OPERATIONS = [operation for methods in DOCUMENT["paths"].values() for operation in methods.values()]
BODIES = {
    f"{operation['operationId']}-{kind}": body
    for operation in OPERATIONS
    for kind, body in operation.get("requestBody", {}).get("content", {}).items()
}


def objects(value: Any) -> Iterator[dict[str, Any]]:
    if isinstance(value, dict):
        yield value
    for one in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from objects(one)


def test_names_are_short_and_none_stands_twice() -> None:
    names = Counter(operation["operationId"] for operation in OPERATIONS)
    assert set(names.values()) == {1}
    assert all(re.fullmatch(r"[a-z]+(_[a-z]+){0,3}", name) for name in names)
    assert not [name for name in DOCUMENT["components"]["schemas"] if "__" in name]


def test_uploads_are_files_to_every_generator() -> None:
    files = [one for one in objects(DOCUMENT) if one.get("contentMediaType") or one.get("format") == "binary"]
    assert len(files) >= 7
    assert all(one["type"] == "string" and one["format"] == "binary" for one in files)


@pytest.mark.parametrize("name", BODIES)
def test_every_body_has_an_example_that_fits(name: str) -> None:
    body = BODIES[name]
    schema = body["schema"] | {"components": DOCUMENT["components"]}
    Draft202012Validator(schema).validate(body["example"])


def test_no_field_of_a_form_is_null() -> None:
    for name, body in BODIES.items():
        if name.endswith("multipart/form-data"):
            schema = body["schema"]
            if "$ref" in schema:
                schema = DOCUMENT["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
            assert {"type": "null"} not in list(objects(schema)), name
