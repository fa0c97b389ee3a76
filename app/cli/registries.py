"""The registry as `overtone adapters` uses it: the folder on this machine, or behind a running server.

Both answer with the same JSON: an adapter as `GET /adapters/{name}` tells of it.
"""

import io
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
from app.errors import BadRequest

if TYPE_CHECKING:
    from app.registry.merge import How
    from app.registry.registry import Adapter

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
    """What the subcommands need. ``place`` names it for people."""

    place: str

    def all(self) -> list[Json]: ...
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
        yield Folder(folder, model)
        return
    if folder is not None or model is not None:
        raise BadRequest("--server has its own registry and model; leave out --adapters and --model.")
    with Client(server, api_key) as client:
        yield Server(client)


class Folder:
    """The registry folder itself. The base model is described, not loaded."""

    def __init__(self, folder: Path | None, model: str | None) -> None:
        settings = settings_with(adapters=folder, model=model)
        from app.model.base import spec_of
        from app.registry.shared import open_registry

        spec = spec_of(settings.model)
        self.place = str(settings.adapters)
        self._settings = settings
        self._registry = open_registry(
            settings.adapters,
            spec,
            max_rank=settings.max_rank,
            keep_versions=settings.keep_versions,
            shared=settings.shared_adapters,
        )
        self._registry.open()

    def all(self) -> list[Json]:
        broken = self._registry.broken()
        told = [*map(self._told, self._registry.all()), *(_broken(name, broken[name]) for name in broken)]
        return sorted(told, key=lambda adapter: str(adapter["name"]))

    def get(self, name: str) -> Json:
        problems = self._registry.broken().get(name)
        return self._told(self._registry.get(name)) if problems is None else _broken(name, problems)

    def add(self, source: str, name: str, replace: bool) -> Json:
        from app.registry.archive import copy_adapter, unpack
        from app.registry.entries import ArchiveLimits
        from app.registry.sources import fetch

        limits = ArchiveLimits(self._settings.max_adapter_mb << 20)
        with tempfile.TemporaryDirectory() as folder:
            path, target = Path(source), Path(folder)
            if path.is_dir():
                notes = copy_adapter(path, target, limits)
            elif path.is_file():
                with path.open("rb") as archive:
                    notes = unpack(archive, path.name, target, limits)
            else:
                prefixes = self._settings.adapter_sources
                notes = fetch(source, target, roots=(), prefixes=prefixes, limits=limits)
            adapter = self._registry.publish(target, name, replace=replace)
            adapter.report.warnings += notes
            return self._told(adapter)

    def merge(self, parts: dict[str, float], how: "How", name: str, replace: bool) -> Json:
        """Make several adapters into one; see `app.registry.merge`."""
        from app.model.base import empty_model
        from app.registry.merge import merge

        model = empty_model(self._settings.model)
        return self._told(merge(self._registry, model, parts, how, name, replace=replace))

    def remove(self, name: str) -> None:
        self._registry.remove(name)

    def rollback(self, name: str, version: int | None) -> Json:
        return self._told(self._registry.rollback(name, version))

    def select(self, name: str) -> Json:
        _needs_server("select")

    def unload(self, name: str | None) -> Json:
        _needs_server("unload")

    def _told(self, adapter: "Adapter") -> Json:
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

    def __init__(self, client: Client) -> None:
        self.place = client.url
        self._client = client

    def all(self) -> list[Json]:
        found: list[Json] = self._client.call("GET", "/adapters")["adapters"]
        return found

    def get(self, name: str) -> Json:
        return self._json("GET", _path(name))

    def add(self, source: str, name: str, replace: bool) -> Json:
        if not Path(source).exists():  # a Hub id or URL, which the server fetches itself
            return self._json("POST", "/adapters", json={"name": name, "source": source, "replace": replace})
        fields = {"name": name, "replace": str(replace).lower()}
        return self._json("POST", "/adapters", data=fields, files={"file": _packed(Path(source))})

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
