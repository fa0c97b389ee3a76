"""What mkdocs adds to the pages of this folder: the API reference, and pages that lie elsewhere in the repository."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
ELSEWHERE = {
    "pretrain.md": "training/pretrain/README.md",
    "changelog.md": "CHANGELOG.md",
    "contributing.md": "CONTRIBUTING.md",
    "security.md": "SECURITY.md",
}
TITLES = {"openai": "OpenAI"}
JSON = dict[str, Any]


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are not files of this folder."""
    for page, source in ELSEWHERE.items():
        files.append(File.generated(config, page, content=(ROOT / source).read_text(encoding="utf-8")))
    files.append(File.generated(config, "reference.md", content=reference()))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Links out of this folder, and between files outside it, lead to the pages made of them."""
    for name, source in ELSEWHERE.items():
        markdown = markdown.replace(f"](../{source}", f"]({name}").replace(f"]({source}", f"]({name}")
    return markdown.replace("](docs/", "](") if page.file.src_uri in ELSEWHERE else markdown


def reference() -> str:
    """The service's OpenAPI description as a page; no model is loaded for it."""
    from app.main import create_app
    from app.settings import Settings

    return "\n".join(_page(create_app(Settings(_env_file=None)).openapi())) + "\n"


def _page(api: JSON) -> Iterator[str]:
    yield "# API reference\n"
    yield "Made from the service's own `/openapi.json`, which code generators read too. In words: [API](api.md).\n"
    operations = [(method, path, told) for path, methods in api["paths"].items() for method, told in methods.items()]
    for tag in api["tags"]:
        yield f"## {TITLES.get(tag['name'], tag['name'].capitalize())}\n\n{tag['description']}\n"
        for method, path, told in operations:
            if tag["name"] in told["tags"]:
                yield from _operation(method, path, told, api["components"]["schemas"])
    yield "## Schemas\n"
    for name, schema in sorted(api["components"]["schemas"].items()):
        yield f"### {name} {{ #{_anchor(name)} }}\n\n{schema.get('description', '')}\n"
        yield from _fields(schema)


def _operation(method: str, path: str, told: JSON, schemas: JSON) -> Iterator[str]:
    yield f"### `{method.upper()} {path}`\n\n{told.get('description', '')}\n"
    if parameters := told.get("parameters"):
        yield "| parameter | in | type | meaning |\n| --- | --- | --- | --- |"
        for one in parameters:
            yield f"| `{one['name']}` | {one['in']} | {_type(one['schema'])} | {_meaning(one['schema'])} |"
        yield ""
    for kind, body in told.get("requestBody", {}).get("content", {}).items():
        optional = {"type": "null"} in body["schema"].get("anyOf", ())
        yield f"Body, `{kind}`{', optional' if optional else ''}:\n"
        yield from _fields(_resolved(body["schema"], schemas))
    yield "| status | answer | |\n| --- | --- | --- |"
    refusals: dict[str, list[str]] = {}
    for status, response in told["responses"].items():
        kinds = response.get("content", {}).items()
        shape = " or ".join(_type(body["schema"]) if body.get("schema") else f"`{kind}`" for kind, body in kinds)
        if status.startswith("2"):
            yield f"| {status} | {shape} | {_cell(response['description'])} |"
        else:
            refusals.setdefault(shape, []).append(status)
    for shape, statuses in refusals.items():
        yield f"| {', '.join(statuses)} | {shape} | [errors](api.md#errors) |"
    yield ""


def _resolved(schema: JSON, schemas: JSON) -> JSON:
    """The schema itself, where only its name is given or it may be left out."""
    for one in schema.get("anyOf", [schema]):
        if "$ref" in one:
            found: JSON = schemas[one["$ref"].rpartition("/")[2]]
            return found
    return schema


def _fields(schema: JSON) -> Iterator[str]:
    if not schema.get("properties"):
        return
    yield "| field | type | default | meaning |\n| --- | --- | --- | --- |"
    for name, field in schema["properties"].items():
        default = "required" if name in schema.get("required", ()) else ""
        if field.get("default") is not None:
            default = f"`{field['default']}`"
        yield f"| `{name}` | {_type(field)} | {_cell(default)} | {_meaning(field)} |"
    yield ""


def _type(schema: JSON) -> str:
    """A schema in a few words, other schemas as links."""
    if reference := schema.get("$ref"):
        name = reference.rpartition("/")[2]
        return f"[{name}](#{_anchor(name)})"
    for key in ("anyOf", "oneOf", "allOf"):
        if key in schema:
            return " or ".join(dict.fromkeys(_type(one) for one in schema[key]))
    if "enum" in schema or "const" in schema:
        return " or ".join(f"`{value}`" for value in schema.get("enum", [schema.get("const")]))
    if schema.get("type") == "array":
        return f"list of {_type(schema.get('items', {}))}"
    if schema.get("format") == "binary" or "contentMediaType" in schema:
        return "file"
    return str(schema.get("type", "any"))


def _meaning(schema: JSON) -> str:
    bounds = {"minimum": "from", "exclusiveMinimum": "above", "maximum": "to", "exclusiveMaximum": "below"}
    inner = [schema, *schema.get("anyOf", ())]
    limits = [f"{word} {one[key]:g}" for one in inner for key, word in bounds.items() if key in one]
    return _cell("; ".join(filter(None, [schema.get("description", ""), " ".join(limits)])))


def _cell(text: str) -> str:
    return " ".join(text.replace("|", "\\|").split())


def _anchor(name: str) -> str:
    return f"schema-{name.lower()}"
