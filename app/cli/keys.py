"""`overtone keys …`: the keys file, which a running server reads again within seconds."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from app.cli.options import Json, settings_with
from app.cli.output import NONE, err, out, print_json, reported, table_of
from app.errors import BadRequest

if TYPE_CHECKING:
    from app.access.keys import KeyRecord

app = typer.Typer(no_args_is_help=True, help="Make, list and revoke the keys that a server asks for.")
File = Annotated[Path | None, typer.Option("--file", help="Default: OVERTONE_KEYS_FILE.", show_default=False)]
Scopes = Annotated[
    list[str],
    typer.Option("--scope", help="What it may do; repeatable. infer: ask; adapters: change them; train: train them."),
]


@app.command()
def add(
    name: Annotated[str, typer.Argument(help="For people: whose key, what for.", show_default=False)],
    scopes: Scopes = ["infer"],  # noqa: B006, typer copies it
    tenant: Annotated[str | None, typer.Option(help="Sees nothing of other tenants.", show_default=False)] = None,
    adapters: Annotated[
        list[str], typer.Option("--adapter", help="Pattern of adapter names that it sees; repeatable.")
    ] = ["*"],  # noqa: B006
    per_minute: Annotated[int | None, typer.Option(min=1, help="Requests a minute.", show_default=False)] = None,
    concurrent: Annotated[int | None, typer.Option(min=1, help="Requests at a time.", show_default=False)] = None,
    file: File = None,
    as_json: Json = False,
) -> None:
    """Make a key. It is shown once; the file keeps a hash."""
    with reported(as_json):
        from pydantic import ValidationError

        from app.access.keys import KeyRecord, digest, new_key, read_keys, write_keys

        place = _file(file)
        key, identity = new_key()
        try:
            record = KeyRecord(
                id=identity,
                name=name,
                sha256=digest(key),
                scopes=tuple(scopes),
                tenant=tenant,
                adapters=tuple(adapters),
                per_minute=per_minute,
                concurrent=concurrent,
            )
        except ValidationError as error:
            first = error.errors()[0]
            raise BadRequest(f"{'.'.join(map(str, first['loc']))}: {first['msg']}.") from None
        write_keys(place, [*(read_keys(place) if place.exists() else []), record])
        if as_json:
            print_json({"key": key} | _told(record))
        else:
            err.print(f"[green]✓[/green] key {identity} is in {place}; it is shown this once:")
            print(key)


@app.command("list")
def list_keys(file: File = None, as_json: Json = False) -> None:
    """Show all keys, without the keys."""
    with reported(as_json):
        from app.access.keys import read_keys

        records = read_keys(_file(file))
        if as_json:
            print_json({"keys": [_told(record) for record in records]})
            return
        table = table_of("id", "name", "scopes", "tenant", "adapters", "limits")
        for record in records:
            table.add_row(
                record.id,
                Text(record.name),
                ", ".join(record.scopes),
                record.tenant or NONE,
                ", ".join(record.adapters),
                _limits(record),
            )
        out.print(table)


@app.command()
def revoke(
    identity: Annotated[str, typer.Argument(metavar="ID", help="As `list` shows it.", show_default=False)],
    file: File = None,
    as_json: Json = False,
) -> None:
    """Make a key good for nothing."""
    with reported(as_json):
        from app.access.keys import revoke as take_out

        record = take_out(_file(file), identity)
        if as_json:
            print_json({"revoked": _told(record)})
        else:
            err.print(f"[green]✓[/green] key {record.id} ({record.name}) is revoked")


def _file(given: Path | None) -> Path:
    place = given or settings_with().keys_file
    if place is None:
        raise BadRequest("Say which file: --file keys.json, or OVERTONE_KEYS_FILE, which the server reads as well.")
    return place


def _limits(record: "KeyRecord") -> str:
    limits = (
        f"{record.per_minute}/min" if record.per_minute else "",
        f"{record.concurrent} at once" if record.concurrent else "",
    )
    return ", ".join(filter(None, limits)) or NONE


def _told(record: "KeyRecord") -> dict[str, object]:
    return record.model_dump(mode="json", exclude={"sha256"})
