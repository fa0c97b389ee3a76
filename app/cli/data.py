"""`overtone data …`: rows of feedback, in their folder or through a server, and drafts of labels for recordings."""

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Protocol

import typer
from rich.text import Text

from app.cli.options import Adapters, ApiKey, Device, Json, Model, Server, settings_with
from app.cli.output import err, out, print_json, reported, table_of
from app.errors import BadRequest, FeedbackOff, NotFound, OvertoneError, on_disk

if TYPE_CHECKING:
    from app.feedback.row import FeedbackRow

app = typer.Typer(no_args_is_help=True, help="List, show, export and delete feedback; label recordings with drafts.")
Id = Annotated[str, typer.Argument(help="Id of the row.", show_default=False)]
Folder = Annotated[Path | None, typer.Option("--feedback", help="The feedback folder.", show_default=False)]
Tenant = Annotated[str | None, typer.Option(help="Tenant of the rows. Default: none.", show_default=False)]
Wrong = Annotated[bool, typer.Option("--wrong", help="Only answers that were wrong.")]
By = Annotated[str | None, typer.Option("--adapter", "-a", help="Only answers of this adapter, or of `base`.")]
WORDS = 60  # of a text in the table
Answer = Callable[[Path], tuple[str, str | None]]  # of a recording, and the prompt that was asked


class Rows(Protocol):
    """Rows of feedback in the shape of `GET /feedback/{id}`."""

    def all(self, wrong: bool, adapter: str | None) -> list[dict[str, Any]]:
        """Newest first."""

    def get(self, identity: str) -> dict[str, Any]:
        """One row. Raises NotFound."""

    def delete(self, identity: str) -> dict[str, Any]:
        """Delete it; the row as it was."""

    def export(self, target: Path, adapter: str | None) -> None:
        """Write the zip."""


@app.command("list")
def list_rows(
    wrong: Wrong = False,
    adapter: By = None,
    feedback: Folder = None,
    tenant: Tenant = None,
    server: Server = None,
    api_key: ApiKey = None,
    as_json: Json = False,
) -> None:
    """Show the rows, newest first."""
    with _rows(as_json, feedback, tenant, server, api_key) as rows:
        found = rows.all(wrong, adapter)
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
        _refuse_taken(target)
        with on_disk(f"The folder of {target}"):
            rows.export(target, adapter)
        if as_json:
            print_json({"written": str(target), "bytes": target.stat().st_size})
        else:
            out.print(f"[green]✓[/green] written to {target}")


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


@app.command()
def label(
    folder: Annotated[Path, typer.Argument(help="Recordings, also in folders below.", show_default=False)],
    prompt: Annotated[
        str | None, typer.Option("--prompt", "-p", help="The question. Default: the adapter's own, or to transcribe.")
    ] = None,
    adapter: Annotated[str | None, typer.Option("--adapter", "-a", help="A name, `base`, or a mix.")] = None,
    to: Annotated[Path | None, typer.Option(help="The file to write. Default: FOLDER/data.jsonl.")] = None,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Length of an answer at most.")] = 256,
    server: Server = None,
    api_key: ApiKey = None,
    model: Model = None,
    device: Device = None,
    adapters: Adapters = None,
    as_json: Json = False,
) -> None:
    """Write the model's answers to a folder of recordings as a data set of drafts, to be corrected by hand.

    A file that is there is never overwritten. Recordings that cannot be read are named and left out.
    """
    with reported(as_json):
        target = to or folder / "data.jsonl"
        _refuse_taken(target)
        files = _recordings(folder)
        asked = _Question(prompt, adapter, max_new_tokens)
        if server:
            answering = _by_server(server, api_key, asked)
        else:
            answering = _by_model(settings_with(model=model, device=device, adapters=adapters), asked)
        with answering as answer:
            lines, left_out = _drafts(files, target.parent, answer)
        if not lines:
            raise BadRequest(f"None of the {len(files)} recordings could be answered; nothing was written.")
        _write_new(target, lines)
        if as_json:
            print_json({"written": str(target), "rows": len(lines), "left_out": left_out})
        else:
            out.print(f"[green]✓[/green] {len(lines)} drafts in {target}; read and correct them before you train")


class _Question:
    def __init__(self, prompt: str | None, adapter: str | None, max_new_tokens: int) -> None:
        self.prompt, self.adapter, self.max_new_tokens = prompt, adapter, max_new_tokens


@contextmanager
def _by_server(url: str, api_key: str | None, asked: _Question) -> Iterator[Answer]:
    """Answers of a running server, each with the prompt that was sent."""
    from app.cli.client import Client

    fields = {"prompt": asked.prompt, "adapter": asked.adapter, "max_new_tokens": str(asked.max_new_tokens)}
    form = {name: value for name, value in fields.items() if value}
    with Client(url, api_key) as client:

        def answer(file: Path) -> tuple[str, str | None]:
            sent = {"audio": (file.name, file.read_bytes())}
            return str(client.call("POST", "/generate", data=form, files=sent)["text"]), asked.prompt

        yield answer


@contextmanager
def _by_model(settings: Any, asked: _Question) -> Iterator[Answer]:
    """Answers of the model, loaded here."""
    from app.cli.generate import opened_service
    from app.engine.sampling_params import SamplingParams
    from app.service import GenerationInput
    from app.service.decoding import read_audio
    from app.service.generation import Conversation, default_prompt

    with opened_service(settings, decoding=True) as service:
        weights = service.adapters.resolve(asked.adapter)
        prompt = asked.prompt or default_prompt(weights)
        sampling = SamplingParams(max_new_tokens=asked.max_new_tokens)

        def answer(file: Path) -> tuple[str, str | None]:
            _, clips = service.read_clips(read_audio(file), file.name)
            conversation = Conversation.single_turn([clips], prompt)
            return service.generate(GenerationInput(conversation, weights, sampling, fit=True)).text, prompt

        yield answer


def _drafts(files: list[Path], folder: Path, answer: Answer) -> tuple[list[str], list[str]]:
    """A line for each recording that could be answered, and the names of the others."""
    lines, left_out = [], []
    for number, file in enumerate(files, 1):
        name = os.path.relpath(file, folder)
        try:
            with err.status(f"{number} of {len(files)}: {name} …"):
                text, prompt = answer(file)
        except OvertoneError as error:
            if error.status >= 500:
                raise
            left_out.append(name)
            err.print(Text.assemble(("left out ", "yellow"), f"{name}: {error}"), soft_wrap=True)
            continue
        row = {"audio": name, **({"prompt": prompt} if prompt else {}), "response": text.strip()}
        lines.append(json.dumps(row, ensure_ascii=False) + "\n")
    return lines, left_out


def _recordings(folder: Path) -> list[Path]:
    """Raises NotFound for no folder, BadRequest for one without recordings."""
    from app.audio.decode import SUFFIXES

    if not folder.is_dir():
        raise NotFound(f"There is no folder {folder}.")
    found = [file for file in folder.rglob("*") if file.suffix.lower() in SUFFIXES and file.is_file()]
    shown = sorted(file for file in found if not any(part.startswith(".") for part in file.relative_to(folder).parts))
    if not shown:
        raise BadRequest(f"{folder} holds no recordings ({', '.join(sorted(SUFFIXES)[:8])} …).")
    return shown


def _refuse_taken(target: Path) -> None:
    """Raises BadRequest for a file that is there, and for a folder that is not."""
    if target.exists():
        raise BadRequest(f"{target} is there already and is not overwritten; move it away, or name another file.")
    if not target.parent.is_dir():
        raise BadRequest(f"There is no folder {target.parent} to write into.")


def _write_new(target: Path, lines: list[str]) -> None:
    """Raises BadRequest when the file has appeared meanwhile, StorageError."""
    try:
        with on_disk(f"The folder of {target}"), target.open("x", encoding="utf-8") as stream:
            stream.writelines(lines)
    except FileExistsError:
        _refuse_taken(target)


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

    def all(self, wrong: bool, adapter: str | None) -> list[dict[str, Any]]:
        asked = {"verdict": "wrong" if wrong else None, "adapter": adapter, "limit": "1000"}
        query = {name: value for name, value in asked.items() if value}
        rows: list[dict[str, Any]] = []
        while True:
            page = self._client.call("GET", "/feedback", params=query | {"offset": str(len(rows))})
            rows += page["rows"]
            if len(rows) >= page["total"] or not page["rows"]:
                return rows

    def get(self, identity: str) -> dict[str, Any]:
        return dict(self._client.call("GET", f"/feedback/{_plain(identity)}"))

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

    def all(self, wrong: bool, adapter: str | None) -> list[dict[str, Any]]:
        from app.feedback.tenant_view import answered_by

        def fits(row: "FeedbackRow") -> bool:
            return (not wrong or row.verdict == "wrong") and (adapter is None or answered_by(row, adapter))

        return [_view(row) for row in self._feedback.all(fits)]

    def get(self, identity: str) -> dict[str, Any]:
        return _view(self._feedback.get(identity))

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
