"""`overtone adapters …`: on the registry folder directly, or through a running server with --server."""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.table import Table
from rich.text import Text

from app.cli.options import Adapters, ApiKey, Json, Model, Server
from app.cli.output import err, megabytes, out, print_json, reported, table_of
from app.errors import BadRequest

if TYPE_CHECKING:
    from app.cli.registries import AdapterRegistry

SERVED = {
    "batched": "in batches with others",
    "alone": "alone, through plain PEFT",
    "classify": "by /classify, a head on the base's tower",
}
# columns of the list beside the name, in the order in which a narrow terminal gets them; `inspect` shows all
BY_IMPORTANCE = ("version", "task", "served", "method", "size", "rank", "parts")
TASK_WIDTH, BORDERS = 20, 3  # characters
app = typer.Typer(
    no_args_is_help=True, help="List, add, merge, inspect, select, unload, remove and roll back adapters."
)
Name = Annotated[str, typer.Argument(help="Name of the adapter.", show_default=False)]


@app.command("list")
def list_adapters(
    server: Server = None, api_key: ApiKey = None, adapters: Adapters = None, model: Model = None, as_json: Json = False
) -> None:
    """Show every adapter, and what is wrong with those that cannot be served."""
    with _registry(as_json, server, api_key, adapters, model) as registry:
        found, removed = registry.all(), registry.removed()
        if as_json:
            print_json({"adapters": found, "removed": removed})
            return
        ready = [adapter for adapter in found if adapter["status"] == "ready"]
        if ready:
            out.print(_table(ready))
        elif not registry.missing:
            err.print(f"No adapters in {registry.place}. Add one: overtone adapters add FOLDER")
        for adapter in found:
            if adapter["status"] == "broken":
                out.print(_trouble(adapter), soft_wrap=True)
        if removed:
            names = ", ".join(entry["name"] for entry in removed)
            err.print(f"Removed, and kept: {names}. `overtone adapters rollback NAME` brings one back.", soft_wrap=True)


@app.command()
def add(
    source: Annotated[str, typer.Argument(help="A PEFT folder, .zip, .tar.gz, Hub id or URL.", show_default=False)],
    name: Annotated[str | None, typer.Option(help="Default: the source's own name.", show_default=False)] = None,
    replace: Annotated[bool, typer.Option("--replace", help="Make it the next version of a taken name.")] = False,
    server: Server = None,
    api_key: ApiKey = None,
    adapters: Adapters = None,
    model: Model = None,
    as_json: Json = False,
) -> None:
    """Check that an adapter fits the base model and publish it."""
    with _registry(as_json, server, api_key, adapters, model) as registry:
        if not source.strip():
            raise BadRequest("The source is empty: name a PEFT folder, a .zip, a .tar.gz, a Hub id or a URL.")
        added = registry.add(source, name or _own_name(source), replace)
        _print(added, as_json, f"{added['name']} version {added['version']} is published in {registry.place}")


@app.command()
def merge(
    parts: Annotated[list[str], typer.Argument(help="Adapters with weights: a:0.6 b:0.4", show_default=False)],
    name: Annotated[str, typer.Option(help="Of the new adapter.", show_default=False)],
    how: Annotated[Literal["linear", "ties", "dare"], typer.Option(help="How they are combined.")] = "linear",
    replace: Annotated[bool, typer.Option("--replace", help="Make it the next version of a taken name.")] = False,
    adapters: Adapters = None,
    model: Model = None,
    as_json: Json = False,
) -> None:
    """Make several LoRA adapters into one, through PEFT."""
    with reported(as_json):
        from app.cli.registries import Folder

        folder = Folder(adapters, model)
        made = folder.merge(_weights(parts), how, name, replace)
        _print(made, as_json, f"{made['name']} version {made['version']} is published in {folder.place}")


@app.command()
def inspect(
    name: Name,
    server: Server = None,
    api_key: ApiKey = None,
    adapters: Adapters = None,
    model: Model = None,
    as_json: Json = False,
) -> None:
    """Show one adapter: what it touches, how it is served, its figures and versions."""
    with _registry(as_json, server, api_key, adapters, model) as registry:
        adapter = registry.get(name)
        if as_json:
            print_json(adapter)
        else:
            out.print(_card(adapter) if adapter["status"] == "ready" else _trouble(adapter), soft_wrap=True)


@app.command()
def select(name: Name, server: Server = None, api_key: ApiKey = None, as_json: Json = False) -> None:
    """Make an adapter the active one, for requests that name none (needs --server)."""
    with _registry(as_json, server, api_key) as registry:
        _print(registry.select(name), as_json, f"{name} is the active adapter")


@app.command()
def unload(
    name: Annotated[str | None, typer.Argument(help="That one alone. Default: all.", show_default=False)] = None,
    server: Server = None,
    api_key: ApiKey = None,
    as_json: Json = False,
) -> None:
    """Go back to the base model and free the slots (needs --server)."""
    with _registry(as_json, server, api_key) as registry:
        _print(registry.unload(name), as_json, f"{name} is unloaded" if name else "the base model answers alone")


@app.command()
def remove(
    name: Name,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    server: Server = None,
    api_key: ApiKey = None,
    adapters: Adapters = None,
    model: Model = None,
    as_json: Json = False,
) -> None:
    """Take an adapter out of service."""
    with _registry(as_json, server, api_key, adapters, model) as registry:
        registry.get(name)
        if not yes and not as_json:
            typer.confirm(f"Remove {name} from {registry.place}?", abort=True, err=True)
        registry.remove(name)
        back = f"overtone adapters rollback {name}"
        _print({"removed": name}, as_json, f"{name} is removed; its files are kept, and {back} brings it back")


@app.command()
def rollback(
    name: Name,
    version: Annotated[
        int | None, typer.Option(help="Default: the one before; of a removed one, the newest.", show_default=False)
    ] = None,
    server: Server = None,
    api_key: ApiKey = None,
    adapters: Adapters = None,
    model: Model = None,
    as_json: Json = False,
) -> None:
    """Make an older version current again, or bring a removed adapter back."""
    with _registry(as_json, server, api_key, adapters, model) as registry:
        adapter = registry.rollback(name, version)
        _print(adapter, as_json, f"{name} is version {adapter['version']} again")


@contextmanager
def _registry(
    as_json: bool,
    server: str | None,
    api_key: str | None,
    adapters: Path | None = None,
    model: str | None = None,
) -> "Iterator[AdapterRegistry]":
    """The registry that the options name; its errors are printed."""
    with reported(as_json):
        from app.cli.registries import registry_of

        with registry_of(server, api_key, adapters, model) as registry:
            yield registry


def _print(answer: Mapping[str, Any], as_json: bool, words: str) -> None:
    if as_json:
        print_json(answer)
    else:
        out.print("[green]✓[/green]", Text(words))


def _weights(parts: Sequence[str]) -> dict[str, float]:
    """`a:0.6` -> {"a": 0.6}; a name alone weighs 1. Raises BadRequest."""
    found: dict[str, float] = {}
    for part in parts:
        name, _, weight = part.partition(":")
        try:
            found[name] = float(weight or 1)
        except ValueError:
            raise BadRequest(f"{part!r}: write name:weight, such as a:0.6.") from None
        if not math.isfinite(found[name]):
            raise BadRequest(f"{part!r}: the weight must be a finite number.")
    if len(found) < len(parts):
        raise BadRequest("An adapter is named twice.")
    return found


def _own_name(source: str) -> str:
    """`runs/My Adapter.tar.gz` -> `my-adapter`."""
    name = source.rstrip("/").rpartition("/")[2].lower()
    for ending in (".zip", ".tar.gz", ".tgz"):
        name = name.removesuffix(ending)
    return name.replace(" ", "-")


def _table(adapters: Sequence[Mapping[str, Any]]) -> Table:
    """All columns that there is room for; a name is always whole, so that it can be copied."""
    facts = [_facts(adapter) for adapter in adapters]
    width = {column: max(len(column), *(row[column].cell_len for row in facts)) + BORDERS for column in facts[0]}
    width["task"] = min(width["task"], TASK_WIDTH + BORDERS)
    chosen, left = {"name"}, out.width - 1 - width["name"]
    for column in BY_IMPORTANCE:
        if width[column] <= left:
            chosen.add(column)
            left -= width[column]
    columns = [column for column in facts[0] if column in chosen]
    table = table_of(*columns)
    for shown in table.columns:  # only tasks are broken into lines, and a name that has the whole width
        shown.no_wrap, shown.overflow = len(chosen) > 1 and shown.header != "task", "fold"
    for row in facts:
        table.add_row(*(row[column] for column in columns))
    return table


def _facts(adapter: Mapping[str, Any]) -> dict[str, Text]:
    """What the list shows of one adapter, by column."""
    manifest, report = adapter["manifest"], adapter["report"]
    return {
        "name": Text(adapter["name"]),
        "version": Text(str(adapter["version"])),
        "method": Text(manifest["method"]),
        "rank": Text(str(report["rank"] or "")),
        "parts": Text(", ".join(report["parts"])),
        "size": Text(megabytes(report["bytes"])),
        "served": Text(report["serving"]),
        "task": Text(manifest["task"] or manifest["prompt"] or ""),
    }


def _trouble(adapter: Mapping[str, Any]) -> Text:
    """A folder that is not served, with the reasons."""
    reasons = "".join(f"\n  - {problem}" for problem in adapter["problems"])
    return Text.assemble(("! ", "yellow"), f"{adapter['name']} cannot be served:{reasons}")


def _card(adapter: Mapping[str, Any]) -> Table:
    """One adapter, one line per fact; absent facts are left out."""
    manifest, report = adapter["manifest"], adapter["report"]
    facts = {
        "task": manifest["task"],
        "prompt": manifest["prompt"],
        "version": f"{adapter['version']} of {', '.join(map(str, adapter['versions']))}",
        "method": _method(manifest["method"], report),
        "touches": f"{', '.join(report['parts'])}: {', '.join(report['targets'])}" if report["parts"] else None,
        "labels": ", ".join(report.get("labels", [])),
        "size": f"{report['parameters']:,} parameters, {megabytes(report['bytes'])}, {report['dtype']}",
        "served": SERVED[report["serving"]],
        "base": manifest["base"]["name"],
        "created": str(manifest["created"])[:19].replace("T", " "),
        "before": _figures(manifest["metrics"].get("before")),
        "after": _figures(manifest["metrics"].get("after")),
        "measured on": manifest["metrics"].get("data"),
        "notes": "; ".join(report["warnings"]),
    }
    table = table_of("", "", title=adapter["name"])
    table.show_header = False
    for fact, value in facts.items():
        if value:
            table.add_row(fact, Text(str(value)))
    return table


def _method(method: str, report: Mapping[str, Any]) -> str:
    return f"{method}, rank {report['rank']}, alpha {report['alpha']:g}" if report["rank"] else method


def _figures(metrics: object) -> str:
    if not isinstance(metrics, Mapping):
        return ""
    return ", ".join(f"{name} {value}" for name, value in metrics.items())
