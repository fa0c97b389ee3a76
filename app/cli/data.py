"""`overtone data …`: rows of feedback, in their folder or through a server, and drafts of labels for recordings."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Protocol

import typer
from rich.text import Text

from app.cli.label import label, refuse_taken
from app.cli.options import ApiKey, Json, Server, settings_with
from app.cli.output import err, out, print_json, reported, table_of
from app.errors import BadRequest, FeedbackOff, NotFound, on_disk

if TYPE_CHECKING:
    from app.feedback.row import FeedbackRow

app = typer.Typer(
    no_args_is_help=True, help="List, show, edit, export and delete feedback; label recordings with drafts."
)
Id = Annotated[str, typer.Argument(help="Id of the row.", show_default=False)]
Folder = Annotated[Path | None, typer.Option("--feedback", help="The feedback folder.", show_default=False)]
Tenant = Annotated[str | None, typer.Option(help="Tenant of the rows. Default: none.", show_default=False)]
Wrong = Annotated[bool, typer.Option("--wrong", help="Only answers that were wrong.")]
By = Annotated[str | None, typer.Option("--adapter", "-a", help="Only answers of this adapter, or of `base`.")]
WORDS = 60  # of a text in the table
app.command()(label)


class Rows(Protocol):
    """Rows of feedback in the shape of `GET /feedback/{id}`."""

    def all(self, verdict: str | None, adapter: str | None) -> list[dict[str, Any]]:
        """Newest first."""

    def get(self, identity: str) -> dict[str, Any]:
        """One row. Raises NotFound."""

    def change(self, identity: str, fields: dict[str, Any]) -> dict[str, Any]:
        """Change fields as `POST /feedback/{id}` does; the row then."""

    def delete(self, identity: str) -> dict[str, Any]:
        """Delete it; the row as it was."""

    def export(self, target: Path, adapter: str | None) -> None:
        """Write the zip."""


@app.command("list")
def list_rows(
    wrong: Wrong = False,
    drafts: Annotated[bool, typer.Option("--drafts", help="Only answers that nobody has judged.")] = False,
    adapter: By = None,
    feedback: Folder = None,
    tenant: Tenant = None,
    server: Server = None,
    api_key: ApiKey = None,
    as_json: Json = False,
) -> None:
    """Show the rows, newest first."""
    with _rows(as_json, feedback, tenant, server, api_key) as rows:
        if wrong and drafts:
            raise BadRequest("--wrong and --drafts are two lists; ask for one of them.")
        found = rows.all("wrong" if wrong else "draft" if drafts else None, adapter)
        if as_json:
            print_json({"rows": found})
            return
        if not found:
            err.print("No rows of feedback.")
            return
        table = table_of("id", "adapter", "verdict", "answer", "should have been", "unusable")
        for row in found:
            texts = [Text(str(row[name] or "")[:WORDS]) for name in ("answer", "corrected")]
            table.add_row(row["id"], row["adapter"], row["verdict"], *texts, row.get("unusable") or "")
        out.print(table)


@app.command()
def show(
    identity: Id,
    feedback: Folder = None,
    tenant: Tenant = None,
    server: Server = None,
    api_key: ApiKey = None,
    as_json: Json = False,
) -> None:
    """Print one row as JSON."""
    with _rows(as_json, feedback, tenant, server, api_key) as rows:
        print_json(rows.get(identity))


@app.command()
def export(
    target: Annotated[Path, typer.Argument(help="The .zip to write.", show_default=False)],
    adapter: By = None,
    feedback: Folder = None,
    tenant: Tenant = None,
    server: Server = None,
    api_key: ApiKey = None,
    as_json: Json = False,
) -> None:
    """Write the rows that can be trained on as a zip, as `overtone train` reads it once it is unpacked."""
    with _rows(as_json, feedback, tenant, server, api_key) as rows:
        refuse_taken(target)
        with on_disk(f"The folder of {target}"):
            rows.export(target, adapter)
        if as_json:
            print_json({"written": str(target), "bytes": target.stat().st_size})
        else:
            out.print(f"[green]✓[/green] written to {target}")


@app.command()
def edit(
    identity: Id,
    verdict: Annotated[
        str | None, typer.Option("--verdict", help="right, wrong, or draft.", show_default=False)
    ] = None,
    corrected: Annotated[
        str | None, typer.Option("--corrected", help="What the answer should have been.", show_default=False)
    ] = None,
    excluded: Annotated[
        bool | None, typer.Option("--exclude/--include", help="Leave it out of training.", show_default=False)
    ] = None,
    split: Annotated[
        str | None, typer.Option("--split", help="Its side in training: train, held_out, or auto.", show_default=False)
    ] = None,
    feedback: Folder = None,
    tenant: Tenant = None,
    server: Server = None,
    api_key: ApiKey = None,
    as_json: Json = False,
) -> None:
    """Change a row's verdict or corrected text, leave it out of training, or choose its side there."""
    with _rows(as_json, feedback, tenant, server, api_key) as rows:
        asked = {"verdict": verdict, "corrected": corrected, "excluded": excluded, "split": split}
        fields = {name: value for name, value in asked.items() if value is not None}
        if not fields:
            raise BadRequest("Say what to change: --verdict, --corrected, --exclude, --include or --split.")
        row = rows.change(identity, fields)
        if as_json:
            print_json(row)
        else:
            out.print(f"[green]✓[/green] {row['id']} is changed")


@app.command()
def delete(
    identity: Id,
    feedback: Folder = None,
    tenant: Tenant = None,
    server: Server = None,
    api_key: ApiKey = None,
    as_json: Json = False,
) -> None:
    """Delete a row with its recordings."""
    with _rows(as_json, feedback, tenant, server, api_key) as rows:
        row = rows.delete(identity)
        if as_json:
            print_json(row)
        else:
            out.print(f"[green]✓[/green] {row['id']} is deleted")


@contextmanager
def _rows(
    as_json: bool, feedback: Path | None, tenant: str | None, server: str | None, api_key: str | None
) -> Iterator[Rows]:
    """The rows that the options name; errors are printed."""
    with reported(as_json):
        if not server:
            yield _OnDisk(feedback, tenant)
            return
        if feedback is not None or tenant is not None:
            raise BadRequest("--server asks a server for the rows of its key: leave --feedback and --tenant out.")
        from app.cli.client import Client

        with Client(server, api_key) as client:
            yield _OverServer(client)


class _OverServer:
    def __init__(self, client: Any) -> None:
        self._client = client

    def all(self, verdict: str | None, adapter: str | None) -> list[dict[str, Any]]:
        asked = {"verdict": verdict, "adapter": adapter, "limit": "1000"}
        query = {name: value for name, value in asked.items() if value}
        rows: list[dict[str, Any]] = []
        while True:
            page = self._client.call("GET", "/feedback", params=query | {"offset": str(len(rows))})
            rows += page["rows"]
            if len(rows) >= page["total"] or not page["rows"]:
                return rows

    def get(self, identity: str) -> dict[str, Any]:
        return dict(self._client.call("GET", f"/feedback/{_plain(identity)}"))

    def change(self, identity: str, fields: dict[str, Any]) -> dict[str, Any]:
        return dict(self._client.call("POST", f"/feedback/{_plain(identity)}", json=fields))

    def delete(self, identity: str) -> dict[str, Any]:
        return dict(self._client.call("DELETE", f"/feedback/{_plain(identity)}"))

    def export(self, target: Path, adapter: str | None) -> None:
        self._client.save("/feedback/export", target, params={"adapter": adapter} if adapter else {})


class _OnDisk:
    """Raises FeedbackOff without a folder, NotFound for one that is not there."""

    def __init__(self, folder: Path | None, tenant: str | None) -> None:
        from app.access.caller import Caller
        from app.feedback.recent import RecentRequests
        from app.feedback.store import FeedbackStore
        from app.feedback.tenant_view import TenantFeedback

        settings = settings_with(feedback=folder)
        if settings.feedback is None:
            raise FeedbackOff
        if not settings.feedback.is_dir():
            raise NotFound(f"There is no feedback folder {settings.feedback}; a server makes it (OVERTONE_FEEDBACK).")
        store = FeedbackStore(settings.feedback, settings.feedback_mb << 20, settings.feedback_days)
        self._feedback = TenantFeedback(store, RecentRequests(1), Caller("operator", tenant=tenant))

    def all(self, verdict: str | None, adapter: str | None) -> list[dict[str, Any]]:
        from app.feedback.tenant_view import answered_by

        def fits(row: "FeedbackRow") -> bool:
            return verdict in (None, row.verdict) and (adapter is None or answered_by(row, adapter))

        return [_view(row) for row in self._feedback.all(fits)]

    def get(self, identity: str) -> dict[str, Any]:
        return _view(self._feedback.get(identity))

    def change(self, identity: str, fields: dict[str, Any]) -> dict[str, Any]:
        return _view(self._feedback.change(identity, **fields))

    def delete(self, identity: str) -> dict[str, Any]:
        return _view(self._feedback.delete(identity))

    def export(self, target: Path, adapter: str | None) -> None:
        from app.feedback.tenant_view import answered_by

        rows = self._feedback.all(lambda row: adapter is None or answered_by(row, adapter))
        with target.open("xb") as stream:
            self._feedback.write_zip(rows, stream)


def _view(row: "FeedbackRow") -> dict[str, Any]:
    return row.model_dump(mode="json") | {"unusable": row.why_unusable}


def _plain(identity: str) -> str:
    """An id as a part of a path. Raises NotFound for what is none."""
    if not identity.replace("-", "").isalnum():
        raise NotFound(f"There is no row of feedback {identity[:80]!r}; `overtone data list` shows them.")
    return identity
