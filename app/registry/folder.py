"""The adapters in one folder: read, checked against the base, compared with their checksums, and switched."""

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from safetensors import SafetensorError

from app.errors import AdapterNotFound, AdapterRejected, Conflict, OvertoneError, StorageError, on_disk
from app.models.loading import BaseSpec
from app.registry.adapter import Adapter, Prepared, Signature, signature_of
from app.registry.adapter_files.describe import describe
from app.registry.adapter_files.manifest import Manifest, compared, dump_manifest, owner_in, read_manifest
from app.registry.adapter_files.validate import Report, validate
from app.registry.disk import Store
from app.registry.numbering import VersionRules
from app.registry.rules import NAME, NAME_RULE, changed_meanwhile, is_name

log = logging.getLogger(__name__)
T = TypeVar("T")
FOLDER = "The registry folder"


class AdapterFolder:
    """Current versions by name, as the folder holds them. It gives no numbers, and knows no owners' rights.

    Safe to use from any thread. Files are read, copied and hashed outside the lock and renamed inside it.
    """

    def __init__(
        self, root: Path, spec: BaseSpec, rules: VersionRules, *, max_rank: int, keep_versions: int, grace_s: float
    ) -> None:
        """``grace_s``: seconds for which a replaced version stays beyond ``keep_versions``, for waiting requests."""
        self.root = root
        self._spec = spec
        self._rules = rules
        self._max_rank = max_rank
        self._store = Store(root, keep_versions, grace_s)
        self._adapters: dict[str, Adapter] = {}
        self._broken: dict[str, list[str]] = {}
        self._seen: dict[str, Signature] = {}
        self._lock = threading.RLock()

    def recover(self) -> None:
        """Tidy up after a crash; a folder that cannot be written is served as it is.

        Raises StorageError when there is none and none can be made.
        """
        try:
            with on_disk(FOLDER):
                self._store.recover()
        except StorageError as error:
            if not self.root.is_dir():
                raise
            log.warning("%s", error)

    def names(self) -> list[str]:
        """Names of adapters that can be served, in order."""
        with self._lock:
            return sorted(self._adapters)

    def all(self) -> list[Adapter]:
        """Current versions in the order of their names."""
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
                raise AdapterRejected(
                    f"The adapter {name!r} cannot be served (repair its folder, roll it back, or publish it anew)",
                    self._broken[name],
                )
            raise AdapterNotFound(name, self._adapters)

    def find(self, name: str) -> Adapter | None:
        """The current version; None for a broken or unknown one."""
        with self._lock:
            return self._adapters.get(name)

    def current(self, name: str) -> Adapter | None:
        """The current version; None for a broken one. Raises AdapterNotFound."""
        with self._lock:
            return None if name in self._broken else self.get(name)

    def folders(self) -> list[str]:
        """Names of the folders that may hold an adapter, servable or not."""
        return self._store.names()

    def exists(self, name: str) -> bool:
        """True if anything lies in the place of this adapter, servable or not."""
        return (self.root / name).exists()

    def owner(self, name: str) -> str | None:
        """The tenant that a name belongs to; None for the operator's, for no adapter, and without a manifest."""
        adapter = self.find(name)
        if adapter is not None:
            return adapter.manifest.owner
        return owner_in(self.root / name) if NAME.fullmatch(name) else None

    def past_owner(self, name: str, version: int) -> str | None:
        """The tenant that a version in the history belongs to; None as for `owner`."""
        return owner_in(self.past_folder(name, version))

    def past(self, name: str) -> list[int]:
        """Numbers of the versions in the history, oldest first."""
        return self._store.versions(name)

    def removed(self) -> dict[str, list[int]]:
        """Removed adapters, with the numbers of their versions in the history, oldest first."""
        return {name: self.past(name) for name in self._store.removed() if is_name(name)}

    def past_folder(self, name: str, version: int) -> Path:
        """The place of a version in the history."""
        return self._store.past(name, version)

    def versions(self, name: str) -> list[int]:
        """All versions on disk, the current one included unless it is broken, oldest first. Raises AdapterNotFound."""
        with self._lock:
            current = self.current(name)
            return sorted({*self.past(name), *([current.version] if current else [])})

    def version(self, name: str, number: int) -> Adapter:
        """One version, current or past.

        Raises AdapterNotFound where this folder does not have it, AdapterRejected for one that cannot be served.
        """
        current = self.find(name)
        if current is not None and current.version == number:
            return current
        folder = self.past_folder(name, number)
        files = signature_of(folder)
        if not files:
            raise AdapterNotFound(f"{name}@{number}", [f"{name}@{known}" for known in self.versions(name)])
        past = self.prepared(folder, name, number, self.fitting(folder))
        return Adapter(name, number, files, past.manifest, past.report)

    def locate(self, adapter: Adapter) -> Path:
        """The folder of this version now, current or past.

        Raises AdapterNotFound when it is gone, Conflict when its files were changed by hand.
        """
        with self._lock:
            current = self._adapters.get(adapter.name)
            is_current = current is not None and current.version == adapter.version
            folder = self.root / adapter.name if is_current else self.past_folder(adapter.name, adapter.version)
            if not folder.is_dir():
                raise AdapterNotFound(adapter.name)  # without a hint: the request may be another tenant's
            if signature_of(folder) != adapter.files:
                raise Conflict(f"The files of {adapter.uid} were changed on disk; ask again in a few seconds.")
            return folder

    def read_with(self, adapter: Adapter, read: Callable[[Path], T]) -> T:
        """The result of ``read`` for the folder of exactly this version, current or past.

        It runs beside the comparison of checksums, and once more where the version was moved to the history meanwhile.
        Raises as `locate` does, what ``read`` raises, and AdapterRejected for damaged files; a current version is
        broken from then on.
        """
        while True:
            folder = self.locate(adapter)
            try:
                found, damaged = compared(folder, adapter.manifest, read)
            except (OSError, OvertoneError, SafetensorError):
                if self.locate(adapter) == folder:
                    raise
                continue
            if self.locate(adapter) == folder:
                if found is None:
                    self._quarantine(adapter, damaged)
                return found

    def check(self, folder: Path) -> Report:
        """The result of validating any folder over this base."""
        return validate(folder, self._spec, max_rank=self._max_rank)

    def fitting(self, folder: Path) -> Report:
        """The same for a folder without problems. Raises AdapterRejected for any other."""
        report = self.check(folder)
        if not report.ok:
            raise AdapterRejected("The adapter does not fit", report.problems)
        return report

    def workspace(self) -> AbstractContextManager[Path]:
        """An empty folder for incoming files, deleted at the end unless it was installed."""
        return self._store.workspace()

    @contextmanager
    def staged(self, source: Path) -> Iterator[tuple[Path, Report]]:
        """A copy of ``source`` on its way in, with its report. Raises AdapterRejected when it does not fit."""
        with self._store.staged(source) as folder:
            yield folder, self.fitting(folder)

    def sync(self, folder: Path) -> None:
        """Flush the files of a workspace to disk."""
        self._store.sync(folder)

    def seal(self, staged: Path, report: Report, name: str, number: int, fields: dict[str, Any]) -> Prepared:
        """Write the manifest of a staged folder, with ``fields`` besides what its files show."""
        manifest = describe(staged, name, number, report, self._spec, fields)
        self._store.seal(staged, dump_manifest(manifest))
        return Prepared(staged, manifest, report)

    def prepared(self, folder: Path, name: str, number: int, report: Report) -> Prepared:
        """A folder with the manifest that it holds, or a new one that is not written. Raises BadRequest."""
        manifest = read_manifest(folder) or describe(folder, name, number, report, self._spec, {})
        return Prepared(folder, manifest, report)

    @contextmanager
    def unchanged(self) -> Iterator[None]:
        """No other thread changes an adapter meanwhile."""
        with self._lock:
            yield

    @contextmanager
    def changing(self) -> Iterator[None]:
        """No other thread or process changes the folder meanwhile. Not to be entered twice."""
        with self._lock, self._store.exclusive():
            yield

    def check_unchanged(self, name: str) -> None:
        """Raises Conflict when another request, process or hand has changed the folder since it was read."""
        if signature_of(self.root / name) != self._seen.get(name, ()):
            raise changed_meanwhile(name)

    def install(self, name: str, new: Prepared, *, replaced: int | None, number: int | None = None) -> Adapter:
        """Make a prepared folder the current version, within `changing`; the one before joins the history.

        ``replaced``: the number of the one before, None for none. ``number``: where the manifest's does not hold.
        """
        if new.folder != self.root / name:
            self._store.switch(name, new.folder, replaced)
        return self._put(name, new.manifest, new.report, number)

    def put_aside(self, name: str, new: Prepared) -> Adapter:
        """Put a prepared folder into the history, within `changing`; the current version stays."""
        number = new.manifest.version
        folder = self._store.put_aside(name, new.folder, number)
        adapter = Adapter(name, number, signature_of(folder), new.manifest, new.report)
        self._rules.record(adapter)
        return adapter

    def withdraw(self, name: str, number: int) -> None:
        """Move the current version to the history under its number, within `changing`."""
        self._store.withdraw(name, number)
        self.forget(name)

    def set_aside(self, name: str) -> None:
        """Move a folder that is no version out of the way, within `changing`; nothing deletes it."""
        self._store.set_aside(name)
        self.forget(name)

    def forget(self, name: str) -> None:
        """Drop the entry of a name whose folder is gone, or is to be read again."""
        with self._lock:
            self._seen.pop(name, None)
            self._adapters.pop(name, None)
            self._broken.pop(name, None)

    def mark_broken(self, name: str, problems: list[str]) -> None:
        """Serve this name no longer, until its files change or another version takes its place."""
        with self._lock:
            self._adapters.pop(name, None)
            self._broken[name] = problems

    def refresh(self) -> list[str]:
        """Read what has changed in the folder; the names that appeared, changed or vanished."""
        with self._lock:
            names = self._store.names()
            gone = [name for name in self._seen if name not in names]
            for name in gone:
                self.forget(name)
            changed = [name for name in names if self._seen.get(name) != signature_of(self.root / name)]
        for name in changed:
            self._load(name)
        return sorted(gone + changed)

    def _quarantine(self, adapter: Adapter, damaged: list[str]) -> NoReturn:
        log.error("the adapter %s is no longer served: %s", adapter.uid, "; ".join(damaged))
        with self._lock:
            if self._adapters.get(adapter.name) is adapter:
                self.mark_broken(adapter.name, damaged)
        raise AdapterRejected(f"{adapter.uid} is damaged on disk (roll it back, or publish it anew)", damaged)

    def _load(self, name: str) -> None:
        """Read one folder; anything wrong with it makes the folder broken, never the registry."""
        folder = self.root / name
        signature = signature_of(folder)
        problems = [] if is_name(name) else [NAME_RULE]
        try:
            report = self.check(folder)
            problems += report.problems or self._rules.refusal(name, folder)
            written = read_manifest(folder) is not None
            manifest = self.prepared(folder, name, 1, report).manifest
        except Exception as error:
            log.exception("the adapter folder %s could not be read", name)
            problems.append(f"it could not be read ({type(error).__name__})")
        with self._lock:
            if signature_of(folder) != signature or self._seen.get(name) == signature:
                return  # changed meanwhile, for the next refresh; or published meanwhile
            self.forget(name)
            self._seen[name] = signature
            if problems:
                self._broken[name] = problems
            else:
                past = self.past(name)
                number = self._rules.number_of_found(name, manifest.version, signature, past, written=written)
                self._put(name, manifest, report, number)

    def _put(self, name: str, manifest: Manifest, report: Report, number: int | None) -> Adapter:
        """The current version is this one, under ``number`` or the manifest's."""
        files = signature_of(self.root / name)
        adapter = Adapter(name, manifest.version if number is None else number, files, manifest, report)
        self._broken.pop(name, None)
        self._seen[name] = files
        self._adapters[name] = adapter
        self._rules.record(adapter)
        return adapter
