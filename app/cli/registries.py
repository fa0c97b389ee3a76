"""The registry as `overtone adapters` uses it: the folder on this machine, or behind a running server.

Both answer with the same JSON: an adapter as `GET /adapters/{name}` shows it.
"""

import io
import re
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, Protocol
from urllib.parse import quote

from app.cli.client import Client
from app.cli.options import settings_with
from app.cli.output import Refused, note
from app.errors import BadRequest, Conflict, Forbidden, NotFound
from app.logs import quiet_libraries

if TYPE_CHECKING:
    from app.registry.adapter import Adapter
    from app.registry.archive_reader import ArchiveLimits
    from app.registry.merge import How

Json = dict[str, Any]
FILES = (
    "adapter_config.json",
    "adapter_model.safetensors",
    "head.json",
    "head.safetensors",
    "manifest.json",
    "README.md",
)


class AdapterRegistry(Protocol):
    """The operations of the subcommands.

    ``place`` names the registry for people; ``missing``: it is a folder that does not exist.
    """

    place: str
    missing: bool

    def all(self) -> list[Json]: ...
    def removed(self) -> list[Json]: ...
    def get(self, name: str) -> Json: ...
    def add(self, source: str, name: str, replace: bool) -> Json: ...
    def remove(self, name: str) -> None: ...
    def rollback(self, name: str, version: int | None) -> Json: ...
    def select(self, name: str) -> Json: ...
    def unload(self, name: str | None) -> Json: ...


@contextmanager
def registry_of(
    server: str | None, api_key: str | None, folder: Path | None, model: str | None
) -> Iterator[AdapterRegistry]:
    """The server's registry where one is named, else the folder."""
    if server is None:
        if api_key is not None:
            raise BadRequest("--api-key is for a running server: add --server with its address.")
        yield Folder(folder, model)
        return
    if folder is not None or model is not None:
        raise BadRequest("--server has its own registry and model; leave out --adapters and --model.")
    with Client(server, api_key) as client:
        yield Server(client)


class Folder:
    """The registry folder itself. The base model is described, not loaded.

    A folder that does not exist is made by the first adapter that is published in it, and by nothing else.
    """

    def __init__(self, folder: Path | None, model: str | None) -> None:
        settings = settings_with(adapters=folder, model=model)
        self.missing = not settings.adapters.exists() and not settings.shared_adapters
        from app.models.loading import spec_of
        from app.registry.replicated import open_registry

        spec = spec_of(settings.model, settings.weights)
        self.place = str(settings.adapters)
        self._settings = settings
        self._registry = open_registry(
            settings.adapters,
            spec,
            max_rank=settings.max_rank,
            keep_versions=settings.keep_versions,
            shared=settings.shared_adapters,
        )
        if not self.missing:
            self._registry.open()

    def all(self) -> list[Json]:
        if self.missing:
            note(self._no_folder())
        broken = self._registry.broken()
        listed = [*map(self._as_json, self._registry.all()), *(_broken(name, broken[name]) for name in broken)]
        return sorted(listed, key=lambda adapter: str(adapter["name"]))

    def removed(self) -> list[Json]:
        return [{"name": name, "versions": kept} for name, kept in self._registry.removed().items()]

    def get(self, name: str) -> Json:
        self._needs_folder()
        problems = self._registry.broken().get(name)
        return self._as_json(self._registry.get(name)) if problems is None else _broken(name, problems)

    def add(self, source: str, name: str, replace: bool) -> Json:
        from app.registry.archive import copy_adapter, unpack
        from app.registry.archive_reader import ArchiveLimits

        limits = ArchiveLimits(self._settings.max_adapter_mb << 20)
        with tempfile.TemporaryDirectory() as folder:
            path, target = Path(source), Path(folder)
            if path.is_dir():
                notes = copy_adapter(path, target, limits)
            elif path.is_file():
                with path.open("rb") as archive:
                    notes = unpack(archive, path.name, target, limits)
            else:
                notes = self._fetched(source, target, limits)
            if self.missing:
                self._registry.open()  # makes it
            with _option_named():
                adapter = self._registry.publish(target, name, replace=replace)
            adapter.report.warnings += notes
            return self._as_json(adapter)

    def merge(self, parts: dict[str, float], how: "How", name: str, replace: bool) -> Json:
        """Make several adapters into one; see `app.registry.merge`."""
        from app.models.loading import empty_model
        from app.registry.merge import merge

        self._needs_folder()
        quiet_libraries()
        model = empty_model(self._settings.model)
        with _option_named():
            return self._as_json(merge(self._registry, model, parts, how, name, replace=replace))

    def remove(self, name: str) -> None:
        self._needs_folder()
        self._registry.remove(name)

    def rollback(self, name: str, version: int | None) -> Json:
        self._needs_folder()
        return self._as_json(self._registry.rollback(name, version))

    def select(self, name: str) -> Json:
        _needs_server("select")

    def unload(self, name: str | None) -> Json:
        _needs_server("unload")

    def _needs_folder(self) -> None:
        if self.missing:
            raise NotFound(self._no_folder())

    def _no_folder(self) -> str:
        return (
            f"The registry folder {self._settings.adapters.absolute()} does not exist. Run the command where the "
            "server runs, or name the folder: --adapters FOLDER (OVERTONE_ADAPTERS)."
        )

    def _fetched(self, source: str, target: Path, limits: "ArchiveLimits") -> list[str]:
        """What is not on this machine: a Hub id or URL. Raises BadRequest where none of the two may be read."""
        from app.registry.sources import fetch

        try:
            return fetch(source, target, roots=(), prefixes=self._settings.adapter_sources, limits=limits)
        except Forbidden:
            raise BadRequest(_not_found(source)) from None

    def _as_json(self, adapter: "Adapter") -> Json:
        return {
            "name": adapter.name,
            "status": "ready",
            "version": adapter.version,
            "versions": self._registry.versions(adapter.name),
            "manifest": adapter.manifest.model_dump(mode="json", by_alias=True),
            "report": asdict(adapter.report),
        }


class Server:
    """The registry of a running server."""

    missing = False

    def __init__(self, client: Client) -> None:
        self.place = client.url
        self._client = client

    def all(self) -> list[Json]:
        found: list[Json] = self._client.call("GET", "/adapters")["adapters"]
        return found

    def removed(self) -> list[Json]:
        found: list[Json] = self._client.call("GET", "/adapters").get("removed", [])
        return found

    def get(self, name: str) -> Json:
        return self._json("GET", _path(name))

    def add(self, source: str, name: str, replace: bool) -> Json:
        with _option_named():
            if Path(source).exists():
                fields = {"name": name, "replace": str(replace).lower()}
                return self._json("POST", "/adapters", data=fields, files={"file": _packed(Path(source))})
            try:  # a Hub id, a URL or a folder of its machine, which the server reads itself
                return self._json("POST", "/adapters", json={"name": name, "source": source, "replace": replace})
            except Refused as refusal:
                if refusal.code != Forbidden.code:
                    raise
                message = f"There is no file or folder {source!r} on this machine, and the server says: {refusal}"
                raise Refused(refusal.status, refusal.code, message) from None

    def remove(self, name: str) -> None:
        self._client.call("DELETE", _path(name))

    def rollback(self, name: str, version: int | None) -> Json:
        return self._json("POST", _path(name, "/rollback"), json={"version": version} if version else {})

    def select(self, name: str) -> Json:
        return self._json("POST", _path(name, "/select"))

    def unload(self, name: str | None) -> Json:
        return self._json("POST", "/unload", json={"adapter": name} if name else {})

    def _json(self, method: str, path: str, **content: Any) -> Json:
        answer: Json = self._client.call(method, path, **content)
        return answer


@contextmanager
def _option_named() -> Iterator[None]:
    """A name that is taken: the way on, with the options of the command line."""
    try:
        yield
    except (Conflict, Refused) as error:
        if error.code != Conflict.code or "is taken" not in str(error):
            raise
        raise Refused(
            error.status,
            error.code,
            f"{error} On the command line: --replace for its next version, --name for another.",
        ) from None


def _not_found(source: str) -> str:
    """A source that is no path here and may not be fetched either."""
    is_url = "://" in source
    if not is_url and not re.fullmatch(r"[\w.-]+/[\w.-]+", source):
        return f"There is no file or folder {source!r}; check the path and the folder that you are in."
    allowed = source if is_url else f"hf://{source.partition('/')[0]}/"
    what = "" if is_url else f"There is no file or folder {source!r} here. "
    return f"{what}To fetch it as a {'URL' if is_url else 'Hub id'}, allow it: OVERTONE_ADAPTER_SOURCES={allowed}"


def _broken(name: str, problems: list[str]) -> Json:
    return {"name": name, "status": "broken", "problems": problems}


def _path(name: str, action: str = "") -> str:
    return f"/adapters/{quote(name, safe='')}{action}"


def _packed(source: Path) -> tuple[str, bytes]:
    """An archive as it is; a folder's adapter files as a zip."""
    if source.is_file():
        return source.name, source.read_bytes()
    memory = io.BytesIO()
    with zipfile.ZipFile(memory, "w") as archive:
        for file in FILES:
            if (source / file).is_file():
                archive.write(source / file, file)
    return f"{source.name}.zip", memory.getvalue()


def _needs_server(command: str) -> NoReturn:
    raise BadRequest(f"`{command}` acts on a running server: add --server URL, such as http://127.0.0.1:8000.")
