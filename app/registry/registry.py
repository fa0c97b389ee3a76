"""The registry: names to adapters, always what the folder holds and what fits the base."""

import logging
import re
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from app.errors import AdapterNotFound, AdapterRejected, BadRequest, Conflict, NotFound
from app.model.base import BaseSpec
from app.registry.manifest import BaseModelRef, Manifest, dump_manifest, read_manifest, sha256_of
from app.registry.store import Store
from app.registry.validate import Report, validate
from app.registry.weights import AdapterWeights, read_weights

log = logging.getLogger(__name__)
NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
RESERVED = "base"
NAME_RULE = "a name is 1 to 64 of a-z, 0-9, '.', '_' and '-', begins with a letter or digit, and is not 'base'"
Signature = tuple[tuple[str, int, int], ...]


@dataclass(frozen=True, eq=False)
class Adapter:
    """One version of one adapter. ``path`` is where it lay when it was found: ask the registry for it."""

    name: str
    version: int
    path: Path
    manifest: Manifest
    report: Report

    @property
    def uid(self) -> str:
        return f"{self.name}@{self.version}"


class Registry:
    """Safe to use from any thread. Files are validated and copied outside the lock, renamed inside it."""

    def __init__(self, root: Path, spec: BaseSpec, *, max_rank: int, keep_versions: int) -> None:
        self.root = root
        self._spec = spec
        self._max_rank = max_rank
        self._store = Store(root, keep_versions)
        self._adapters: dict[str, Adapter] = {}
        self._broken: dict[str, list[str]] = {}
        self._seen: dict[str, Signature] = {}
        self._lock = threading.RLock()

    def open(self) -> None:
        """Tidy up after a crash and read the folder."""
        self._store.recover()
        self.refresh()

    def names(self) -> list[str]:
        with self._lock:
            return sorted(self._adapters)

    def all(self) -> list[Adapter]:
        with self._lock:
            return [self._adapters[name] for name in sorted(self._adapters)]

    def broken(self) -> dict[str, list[str]]:
        """Folders that hold no servable adapter, with the reasons."""
        with self._lock:
            return dict(self._broken)

    def get(self, name: str) -> Adapter:
        """The current version. Raises AdapterNotFound, or AdapterRejected for a broken one."""
        with self._lock:
            if name in self._adapters:
                return self._adapters[name]
            if name in self._broken:
                raise AdapterRejected(f"The adapter {name!r} cannot be served", self._broken[name])
            raise AdapterNotFound(name, self._adapters)

    def versions(self, name: str) -> list[int]:
        """All versions on disk, the current one included, oldest first."""
        with self._lock:
            return sorted({*self._store.versions(name), self.get(name).version})

    def folder(self, adapter: Adapter) -> Path:
        """Where this version lies now. Raises AdapterNotFound when it is gone."""
        with self._lock:
            current = self._adapters.get(adapter.name)
            if current and current.version == adapter.version:
                return self.root / adapter.name
            past = self._store.past(adapter.name, adapter.version)
            if past.is_dir():
                return past
            raise AdapterNotFound(adapter.name, self._adapters)

    def read(self, adapter: Adapter) -> AdapterWeights:
        """The tensors of exactly this version, also when another has become current."""
        try:
            return read_weights(self.folder(adapter))
        except FileNotFoundError:  # moved aside between the two calls
            return read_weights(self.folder(adapter))

    def check(self, folder: Path) -> Report:
        """Validate a folder that is not in the registry."""
        return validate(folder, self._spec, max_rank=self._max_rank)

    def publish(self, folder: Path, name: str, *, replace: bool = False, **fields: Any) -> Adapter:
        """Make a copy of ``folder`` the current version of ``name``; ``fields`` go into its manifest.

        Raises BadRequest for the name, Conflict when it is taken, AdapterRejected when it does not fit.
        """
        check_name(name)
        if not replace and name in self._store.names():
            raise Conflict(f"The name {name!r} is taken; choose another, or replace it explicitly.")
        report = self.check(folder)
        if not report.ok:
            raise AdapterRejected("The adapter does not fit", report.problems)
        staged = self._store.stage(folder)
        with self._lock:
            if not replace and (self.root / name).exists():
                raise Conflict(f"The name {name!r} is taken; choose another, or replace it explicitly.")
            current = self._current_version(name)
            version = max([current or 0, *self._store.versions(name)]) + 1
            manifest = self._manifest(staged, name, version, report, fields)
            self._store.seal(staged, dump_manifest(manifest))
            self._store.switch(name, staged, current)
            self._forget(name)
            self._seen[name] = _signature(self.root / name)
            adapter = self._adapters[name] = Adapter(name, version, self.root / name, manifest, report)
            return adapter

    def rollback(self, name: str, version: int | None = None) -> Adapter:
        """Make an older version current again: the one before, or ``version``. Raises NotFound without it."""
        with self._lock:
            current = self.get(name).version
            past = self._store.versions(name)
            older = [v for v in past if v < current] if version is None else [v for v in past if v == version]
            if not older:
                raise NotFound(f"{name!r} has no such older version; there are: {', '.join(map(str, past)) or 'none'}.")
            self._store.switch(name, self._store.past(name, older[-1]), current)
            return self._take(name)

    def remove(self, name: str) -> None:
        """Take an adapter out of service; its files stay in the history."""
        with self._lock:
            version = self._current_version(name) if name in self._store.names() else None
            if version is None:
                raise AdapterNotFound(name, self._adapters)
            self._store.remove(name, version)
            self._forget(name)

    def refresh(self) -> list[str]:
        """Look at the folder again; the names that appeared, changed or vanished."""
        with self._lock:
            names = self._store.names()
            gone = [name for name in self._seen if name not in names]
            for name in gone:
                self._forget(name)
            changed = [name for name in names if self._seen.get(name) != _signature(self.root / name)]
        for name in changed:
            self._load(name)
        return sorted(gone + changed)

    def _take(self, name: str) -> Adapter:
        """Read what was just switched in; its number is its own, not a hand edit's."""
        self._forget(name)
        self._load(name)
        return self.get(name)

    def _load(self, name: str) -> None:
        """Read one folder; whatever is wrong with it makes it broken, never the registry."""
        folder = self.root / name
        signature = _signature(folder)
        problems = [] if NAME.fullmatch(name) and name != RESERVED else [NAME_RULE]
        try:
            report = self.check(folder)
            problems += report.problems
            manifest = read_manifest(folder) or self._manifest(folder, name, 1, report, {})
        except Exception as error:
            log.exception("the adapter folder %s could not be read", name)
            problems.append(f"it could not be read ({type(error).__name__})")
        with self._lock:
            if _signature(folder) != signature:
                return  # changed meanwhile: the next look tells
            known = self._adapters.get(name)
            if known and self._seen.get(name) == signature:
                return  # published meanwhile
            self._forget(name)
            self._seen[name] = signature
            if problems:
                self._broken[name] = problems
                return
            version = manifest.version
            if known and version <= known.version:  # changed by hand: other weights need another number
                version = known.version + 1
            self._adapters[name] = Adapter(name, version, folder, manifest, report)

    def _forget(self, name: str) -> None:
        self._seen.pop(name, None)
        self._adapters.pop(name, None)
        self._broken.pop(name, None)

    def _current_version(self, name: str) -> int | None:
        """Number of the folder now in place; a broken one gets the next free number."""
        if name in self._adapters:
            return self._adapters[name].version
        if (self.root / name).exists():
            return max([0, *self._store.versions(name)]) + 1
        return None

    def _manifest(self, folder: Path, name: str, version: int, report: Report, fields: dict[str, Any]) -> Manifest:
        """The folder's own manifest with what is certain filled in, or a new one."""
        old = read_manifest(folder)
        facts = {
            "name": name,
            "version": version,
            "base": BaseModelRef(name=self._spec.name, fingerprint=self._spec.fingerprint),
            "rank": report.rank,
            "alpha": report.alpha,
            "targets": report.targets,
            "parts": report.parts,
            "parameters": report.parameters,
            "bytes": report.bytes,
            "files": {f.name: sha256_of(f) for f in sorted(folder.glob("adapter_*")) if f.is_file()},
        }
        method = {"method": "projector" if report.parts == ["projector"] else "lora"}
        kept = old.model_dump(by_alias=True) if old else method
        return Manifest.model_validate({**kept, **facts, **fields})


def check_name(name: str) -> None:
    """Raises BadRequest unless ``name`` may name an adapter."""
    if not NAME.fullmatch(name) or name == RESERVED:
        raise BadRequest(f"{name[:80]!r} cannot name an adapter: {NAME_RULE}.")


def _signature(folder: Path) -> Signature:
    """Changes whenever a file of the folder does."""
    try:
        stats = [(file.name, file.stat()) for file in sorted(folder.iterdir())]
    except OSError:  # vanished meanwhile
        return ()
    return tuple((name, stat.st_size, stat.st_mtime_ns) for name, stat in stats)
