"""The registry: names to adapters, always what the folder holds and what fits the base."""

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from safetensors import SafetensorError

from app.errors import (
    AdapterNotFound,
    AdapterRejected,
    Conflict,
    NotFound,
    OvertoneError,
    StorageError,
    on_disk,
)
from app.model.base import BaseSpec
from app.model.head import Head, read_head
from app.registry.adapter import NAME, NAME_RULE, RESERVED, Prepared, Signature, check_name, signature_of
from app.registry.adapter import Adapter as Adapter
from app.registry.choices import Choices
from app.registry.describe import describe
from app.registry.manifest import Manifest, compared, dump_manifest, owner_in, read_manifest
from app.registry.store import Store
from app.registry.validate import Report, validate
from app.registry.weights import AdapterWeights, read_weights

log = logging.getLogger(__name__)
T = TypeVar("T")
FOLDER = "The registry folder"


class Registry:
    """Safe to use from any thread. Files are read, copied and hashed outside the lock, renamed inside it."""

    def __init__(self, root: Path, spec: BaseSpec, *, max_rank: int, keep_versions: int, grace_s: float = 0.0) -> None:
        """``grace_s``: how long a version that was current is kept beyond ``keep_versions``, for those who wait."""
        self.root = root
        self._spec = spec
        self._max_rank = max_rank
        self._store = Store(root, keep_versions, grace_s)
        self._adapters: dict[str, Adapter] = {}
        self._broken: dict[str, list[str]] = {}
        self._seen: dict[str, Signature] = {}
        self._numbers: dict[str, int] = {}  # the highest number given to each name, never forgotten
        self._stood_for: dict[str, Signature] = {}  # the files that each uid was given to, never forgotten
        self._lock = threading.RLock()
        self.choices = Choices()

    def open(self) -> None:
        """Tidy up after a crash and read the folder; one that cannot be written is served as it is.

        Raises StorageError when there is none and none can be made.
        """
        try:
            with on_disk(FOLDER):
                self._store.recover()
        except StorageError as error:
            if not self.root.is_dir():
                raise
            log.warning("%s", error)
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
                raise AdapterRejected(
                    f"The adapter {name!r} cannot be served (mend its folder, roll it back, or publish it anew)",
                    self._broken[name],
                )
            raise AdapterNotFound(name, self._adapters)

    def current(self, name: str) -> Adapter | None:
        """The current version; None for a broken one. Raises AdapterNotFound."""
        with self._lock:
            return None if name in self._broken else self.get(name)

    def look_for(self, name: str) -> None:
        """Called before a name is said to be unknown; see `SharedRegistry`."""

    def tell_unload(self, names: list[str] | None) -> None:
        """Called when slots are freed, of these adapters or of all; see `SharedRegistry`."""

    def owner(self, name: str) -> str | None:
        """The tenant that a name belongs to; None for nobody's, for no adapter, and where no manifest tells."""
        with self._lock:
            adapter = self._adapters.get(name)
        if adapter is not None:
            return adapter.manifest.owner
        return owner_in(self.root / name) if NAME.fullmatch(name) else None

    def past_owner(self, name: str, version: int) -> str | None:
        """The same for a version in the history."""
        return owner_in(self._store.past(name, version))

    def versions(self, name: str) -> list[int]:
        """All versions on disk, the current one included unless it is broken, oldest first."""
        with self._lock:
            current = self.current(name)
            return sorted({*self._store.versions(name), *([current.version] if current else [])})

    def folder(self, adapter: Adapter) -> Path:
        """Where this version lies now.

        Raises AdapterNotFound when it is gone, Conflict when somebody has changed its files by hand.
        """
        with self._lock:
            current = self._adapters.get(adapter.name)
            is_current = current is not None and current.version == adapter.version
            folder = self.root / adapter.name if is_current else self._store.past(adapter.name, adapter.version)
            if not folder.is_dir():
                raise AdapterNotFound(adapter.name)  # without a hint: this is read for whoever waits for it
            if signature_of(folder) != adapter.files:
                raise Conflict(f"The files of {adapter.uid} were changed on disk; ask again in a few seconds.")
            return folder

    def read(self, adapter: Adapter) -> AdapterWeights:
        """The tensors of exactly this version, also when another has become current. Raises as `intact` does."""
        return self.read_with(adapter, read_weights)

    def read_head(self, adapter: Adapter) -> Head:
        """The same for an adapter that is a classification head."""
        return self.read_with(adapter, read_head)

    def read_with(self, adapter: Adapter, read: Callable[[Path], T]) -> T:
        """What ``read`` makes of a version where it lies. Raises as `intact` does.

        It runs beside the comparison of checksums, and once more where the version was moved aside meanwhile.
        """
        while True:
            folder = self.folder(adapter)
            try:
                found, damaged = compared(folder, adapter.manifest, read)
            except (OSError, OvertoneError, SafetensorError):
                if self.folder(adapter) == folder:
                    raise
                continue
            if self.folder(adapter) == folder:
                if found is None:
                    self._quarantine(adapter, damaged)
                return found

    def intact(self, adapter: Adapter) -> Path:
        """Where this version lies, its files compared with their checksums.

        Raises as `folder` does, and AdapterRejected for damaged files; a current version is broken from then on.
        """
        return self.read_with(adapter, lambda folder: folder)

    @contextmanager
    def workspace(self) -> Iterator[Path]:
        """A folder for what is on its way in; it leaves nothing behind. Raises StorageError, also for the caller."""
        with on_disk(FOLDER), self._store.workspace() as folder:
            yield folder

    def check(self, folder: Path) -> Report:
        """Validate a folder that is not in the registry."""
        return validate(folder, self._spec, max_rank=self._max_rank)

    @on_disk(FOLDER)
    def publish(
        self, folder: Path, name: str, *, replace: bool = False, owner: str | None = None, **fields: Any
    ) -> Adapter:
        """Make a copy of ``folder`` the current version of ``name``; ``fields`` go into its manifest.

        ``owner``: the tenant that publishes; without one, the name stays whose it is.
        Raises BadRequest for the name, Conflict when it is taken, AdapterRejected when it does not fit, StorageError.
        """
        check_name(name)
        self._refuse_taken(name, replace, owner)
        self.refresh()  # another process may have published
        # whatever an uploaded manifest says, the owner is known here
        with (
            self._prepared(folder, name, {**fields, "owner": owner or self.owner(name)}) as new,
            self._lock,
            self._store.alone(),
        ):
            self._refuse_taken(name, replace, owner)
            self._refuse_changed(name)
            self._store.switch(name, new.folder, self._number_in_place(name))
            return self._put(name, new.manifest, new.report)

    @on_disk(FOLDER)
    def rollback(self, name: str, version: int | None = None) -> Adapter:
        """Make an older version current again: the one before, or ``version``; also in place of a broken one.

        Raises NotFound without it, AdapterRejected when it no longer fits, Conflict when another change came first,
        StorageError.
        """
        self.refresh()
        current = self.current(name)
        past = self._store.versions(name)
        before = [v for v in past if current is None or v < current.version]
        older = before if version is None else [v for v in past if v == version]
        if not older:
            raise NotFound(f"{name!r} has no such older version; there are: {', '.join(map(str, past)) or 'none'}.")
        version, report = self._newest_whole(name, older)
        folder = self._store.past(name, version)
        manifest = read_manifest(folder) or describe(folder, name, version, report, self._spec, {})
        with self._lock, self._store.alone():
            self._refuse_changed(name, self._adapters.get(name) is not current or not folder.is_dir())
            number = self._number_of(name, version, folder)
            self._store.switch(name, folder, self._number_in_place(name))
            return self._put(name, manifest, report, number)

    @on_disk(FOLDER)
    def remove(self, name: str) -> None:
        """Take an adapter out of service; its files stay in the history.

        Raises AdapterNotFound, Conflict or StorageError.
        """
        self.refresh()
        with self._lock, self._store.alone():
            if name not in self._store.names():
                raise AdapterNotFound(name, self._adapters)
            self._refuse_changed(name)
            self._store.remove(name, self._number_in_place(name) or 0)
            self._forget(name)

    def refresh(self) -> list[str]:
        """Look at the folder again; the names that appeared, changed or vanished."""
        with self._lock:
            names = self._store.names()
            gone = [name for name in self._seen if name not in names]
            for name in gone:
                self._forget(name)
            changed = [name for name in names if self._seen.get(name) != signature_of(self.root / name)]
        for name in changed:
            self._load(name)
        return sorted(gone + changed)

    def _quarantine(self, adapter: Adapter, damaged: list[str]) -> NoReturn:
        """Serve it no more, until its files change or another version takes its place."""
        log.error("the adapter %s is served no more: %s", adapter.uid, "; ".join(damaged))
        with self._lock:
            if self._adapters.get(adapter.name) is adapter:
                del self._adapters[adapter.name]
                self._broken[adapter.name] = damaged
        raise AdapterRejected(f"{adapter.uid} is damaged on disk (roll it back, or publish it anew)", damaged)

    def _newest_whole(self, name: str, versions: list[int]) -> tuple[int, Report]:
        """The newest of these past versions that can be served. Raises AdapterRejected when none can."""
        for version in reversed(versions):
            report = self.check(self._store.past(name, version))
            if report.ok:
                return version, report
        raise AdapterRejected(f"Version {version} of {name!r} does not fit any more", report.problems)

    def _load(self, name: str) -> None:
        """Read one folder; whatever is wrong with it makes it broken, never the registry."""
        folder = self.root / name
        signature = signature_of(folder)
        problems = [] if NAME.fullmatch(name) and name != RESERVED else [NAME_RULE]
        try:
            report = self.check(folder)
            problems += report.problems or self._foreign(name, folder)
            written = read_manifest(folder)
            manifest = written or describe(folder, name, 1, report, self._spec, {})
        except Exception as error:
            log.exception("the adapter folder %s could not be read", name)
            problems.append(f"it could not be read ({type(error).__name__})")
        with self._lock:
            if signature_of(folder) != signature:
                return  # changed meanwhile: the next look tells
            if self._seen.get(name) == signature:
                return  # published meanwhile
            self._forget(name)
            self._seen[name] = signature
            if problems:
                self._broken[name] = problems
                return
            self._put(name, manifest, report, self._number_found(name, manifest.version, signature, bool(written)))

    @contextmanager
    def _prepared(self, folder: Path, name: str, fields: dict[str, Any]) -> Iterator[Prepared]:
        """A staged copy with its number and manifest. Raises AdapterRejected when it does not fit."""
        with self._store.staged(folder) as staged:
            report = self.check(staged)
            if not report.ok:
                raise AdapterRejected("The adapter does not fit", report.problems)
            manifest = describe(staged, name, self._next_number(name), report, self._spec, fields)
            self._store.seal(staged, dump_manifest(manifest))
            yield Prepared(staged, manifest, report)

    def _foreign(self, name: str, folder: Path) -> list[str]:
        """Why a folder that fits is not served all the same; see `SharedRegistry`."""
        return []

    def _number_found(self, name: str, own: int, signature: Signature, written: bool) -> int:
        """The number of a folder that somebody else has put there: its manifest's, if that means these files."""
        known = written and self._stood_for.get(f"{name}@{own}") == signature  # rolled back by another process
        free = own > self._numbers.get(name, 0) and own not in self._store.versions(name)
        return own if known or free else self._next_number(name)

    def _put(self, name: str, manifest: Manifest, report: Report, number: int | None = None) -> Adapter:
        """The folder of ``name`` holds this version now: the manifest's, or ``number``."""
        version = manifest.version if number is None else number
        files = signature_of(self.root / name)
        adapter = Adapter(name, version, files, manifest, report)
        self._broken.pop(name, None)
        self._seen[name] = files
        self._adapters[name] = adapter
        self._numbers[name] = max(version, self._numbers.get(name, 0))
        self._stood_for[adapter.uid] = files
        return adapter

    def _forget(self, name: str) -> None:
        self._seen.pop(name, None)
        self._adapters.pop(name, None)
        self._broken.pop(name, None)

    def _next_number(self, name: str) -> int:
        """A number that no version of this name has had: other weights never get the uid of these."""
        with self._lock:
            in_place = self._adapters[name].version if name in self._adapters else 0
            taken = [self._numbers.get(name, 0), in_place, *self._store.versions(name)]
            self._numbers[name] = max(taken) + 1
            return self._numbers[name]

    def _number_of(self, name: str, version: int, folder: Path) -> int:
        """Its own number, or a new one where its files are not those that had it in this process."""
        files = signature_of(folder)
        return version if self._stood_for.get(f"{name}@{version}", files) == files else self._next_number(name)

    def _number_in_place(self, name: str) -> int | None:
        """Number of the folder that has this name now; a broken one gets a new one."""
        if name in self._adapters:
            return self._adapters[name].version
        return self._next_number(name) if (self.root / name).exists() else None

    def _refuse_taken(self, name: str, replace: bool, owner: str | None) -> None:
        if not (self.root / name).exists():
            return
        if owner is not None and self.owner(name) != owner:
            raise Conflict(f"The name {name!r} is taken; choose another.")
        if not replace:
            raise Conflict(f"The name {name!r} is taken; choose another, or replace it explicitly.")

    def _refuse_changed(self, name: str, known: bool = False) -> None:
        """Raises Conflict when another request, process or hand has changed the folder since it was looked at."""
        if known or signature_of(self.root / name) != self._seen.get(name, ()):
            raise Conflict(f"{name!r} was changed at the same moment; look at its versions and ask again.")
