"""A registry whose truth lies in a store that several replicas share; the folder on this machine is its cache.

Every replica serves, of each name, the version that the shared state names, or none while it does not have it.
A folder is served only if its files are that version's, so `name@version` means the same weights everywhere.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from app.errors import (
    AdapterNotFound,
    AdapterRejected,
    Conflict,
    NotFound,
    OvertoneError,
    SharedStoreFailed,
    on_disk,
)
from app.model.base import BaseSpec
from app.registry.adapter import NAME, Adapter, Prepared, Signature, check_name
from app.registry.choices import Choices, Chosen
from app.registry.describe import describe
from app.registry.manifest import read_manifest, sha256_of
from app.registry.object_store import ObjectStore
from app.registry.registry import FOLDER, Registry
from app.registry.state import State, Version

log = logging.getLogger(__name__)
NOT_SHARED = "it is not a version that the shared store knows"
_DOWNLOADS = 4  # at a time
_AGAIN_S = 60.0  # until what was damaged is fetched again


def open_registry(
    root: Path,
    spec: BaseSpec,
    *,
    max_rank: int,
    keep_versions: int,
    grace_s: float = 0.0,
    shared: str | None = None,
) -> Registry:
    """The registry in a folder; with ``shared``, a URL, that folder is a cache of the store there."""
    bounds: dict[str, Any] = {"max_rank": max_rank, "keep_versions": keep_versions, "grace_s": grace_s}
    return (
        Registry(root, spec, **bounds) if shared is None else SharedRegistry(root, spec, ObjectStore(shared), **bounds)
    )


class SharedRegistry(Registry):
    """As `Registry`; what changes something raises SharedStoreFailed while the store cannot be reached.

    ``state`` is what this replica goes by. ``on_unload`` is called with the adapters, or None for all, whose slots
    another replica has told to free.
    """

    def __init__(
        self,
        root: Path,
        spec: BaseSpec,
        store: ObjectStore,
        *,
        max_rank: int,
        keep_versions: int,
        grace_s: float = 0.0,
    ) -> None:
        super().__init__(root, spec, max_rank=max_rank, keep_versions=keep_versions, grace_s=grace_s)
        self.shared = store
        self.on_unload: Callable[[list[str] | None], object] = lambda names: None
        self.choices = SharedChoices(self)
        self._keep = keep_versions
        self.state: State | None = self._remembered()  # None until the store was reached for the first time
        self._followed = 0.0  # when the look that was followed last began
        self._damaged: dict[str, tuple[float, list[str]]] = {}  # places in the store that cannot be served
        self._strangers: set[str] = set()  # names whose folder fits and is not the shared version
        self._unloads_seen: int | None = None
        self._following = threading.RLock()  # never held while something is uploaded

    def versions(self, name: str) -> list[int]:
        entry = self.state.names.get(name) if self.state else None
        return sorted(entry.versions) if entry else super().versions(name)

    def past_owner(self, name: str, version: int) -> str | None:
        known = self.state.names[name].versions.get(version) if self.state and name in self.state.names else None
        return known.owner if known else super().past_owner(name, version)

    def look_for(self, name: str) -> None:
        """Look into the store at once, unless it is known to fail or somebody has looked since this was called."""
        began = time.monotonic()
        if not NAME.fullmatch(name) or self.shared.failure is not None:
            return
        with self._following:
            if self._followed < began:
                self.refresh()

    def refresh(self) -> list[str]:
        """Look at the folder and the store; while it cannot be reached, what is here is served."""
        with self._following:
            before = {adapter.name: adapter.uid for adapter in self.all()}
            try:
                self._look()
            except SharedStoreFailed:
                super().refresh()
            after = {adapter.name: adapter.uid for adapter in self.all()}
        return sorted(name for name in before | after if before.get(name) != after.get(name))

    @on_disk(FOLDER)
    def publish(
        self, folder: Path, name: str, *, replace: bool = False, owner: str | None = None, **fields: Any
    ) -> Adapter:
        """See `Registry.publish`: the files are uploaded first, then the name is claimed, then it is served here."""
        check_name(name)
        state = self._look()
        state.check_free(name, replace, owner)
        current = state.current(name)
        fields["owner"] = owner or (current.owner if current else None)
        with self._prepared(folder, name, fields) as new:
            version = self.shared.upload(new.folder, name, fields["owner"])
            number = new.manifest.version
            forgotten: list[Version] = []

            def claim(state: State) -> None:
                state.check_free(name, replace, owner)
                forgotten[:] = state.add(name, number, version, self._keep)

            with self._following:
                try:
                    self.hold(self.shared.change(claim))
                except Conflict:
                    self.shared.discard([version])
                    raise
                adapter = self._install(name, new)
        self.shared.discard(forgotten)
        return adapter

    @on_disk(FOLDER)
    def rollback(self, name: str, version: int | None = None) -> Adapter:
        entry = self._look().names.get(name)
        if entry is None or entry.current is None:
            raise AdapterNotFound(name, self.names())
        seen, past = entry.current, sorted(set(entry.versions) - {entry.current})
        older = [v for v in past if (v < seen if version is None else v == version)]
        if not older:
            raise NotFound(f"{name!r} has no such older version; there are: {', '.join(map(str, past)) or 'none'}.")
        with self._obtained(name, older[-1], entry.versions[older[-1]]) as new, self._following:
            self.hold(self.shared.change(lambda state: state.roll_back(name, seen, older[-1])))
            return self._install(name, new)

    @on_disk(FOLDER)
    def remove(self, name: str) -> None:
        self._look()
        forgotten: list[Version] = []
        with self._following:
            self.hold(self.shared.change(lambda state: forgotten.extend(state.remove(name, self._keep))))
            self._drop(name)
        self.shared.discard(forgotten)

    def tell_unload(self, names: list[str] | None) -> None:
        """Let every other replica free these slots too."""
        with self._following:
            changed = self.shared.change(lambda state: state.unload(names))
            self.hold(changed)
            seen, told = self._unloads_seen or 0, changed.unloads[-1].number
            if told == seen + 1:  # this replica does so itself
                self._unloads_seen = told

    def _look(self) -> State:
        """The state that holds now, with this replica up to it. Raises SharedStoreFailed."""
        with self._following:
            began = time.monotonic()
            self.hold(self.shared.read())
            self._follow()
            self._followed = began
            return self._state()

    def _follow(self) -> None:
        """Serve what the state names. What cannot be fetched now stays as it is until the next look."""
        super().refresh()
        for name in sorted(self._strangers - set(self._state().names)):
            self._adopt(name)
        wanted = []
        for name, entry in self._state().names.items():
            if entry.current is None:
                if self._is_here(name) or name in self._broken:
                    self._drop(name)
                    self.on_unload([name])
            elif (adapter := self._adapters.get(name)) is None or adapter.version != entry.current:
                wanted.append((name, entry.current, entry.versions[entry.current]))
        if wanted:
            with ThreadPoolExecutor(_DOWNLOADS) as pool:
                list(pool.map(lambda one: self._obtain(*one), wanted))
        self._follow_unloads()

    def _follow_unloads(self) -> None:
        state = self._state()
        newest = state.unloads[-1].number if state.unloads else 0
        if self._unloads_seen is not None:
            for unload in state.unloads_after(self._unloads_seen):
                self.on_unload(unload.names)
        self._unloads_seen = newest

    def _adopt(self, name: str) -> None:
        """Publish a folder that was there before the store knew its name, or that somebody has put there."""
        self._strangers.discard(name)
        try:
            self.publish(self.root / name, name, owner=self.owner(name))
        except SharedStoreFailed:
            self._strangers.add(name)  # at the next look
        except OvertoneError as error:
            log.warning("the folder %s was not published to the shared store: %s", name, error)
        else:
            log.info("the folder %s was published to the shared store", name)

    def _obtain(self, name: str, number: int, version: Version) -> None:
        """Put a version in its place; one that is damaged or does not fit is quarantined, whatever else is served."""
        tried, problems = self._damaged.get(version.place, (0.0, []))
        if not problems or time.monotonic() > tried + _AGAIN_S:
            try:
                with self._obtained(name, number, version) as new:
                    self._install(name, new)
                self._damaged.pop(version.place, None)
                return
            except SharedStoreFailed:
                return
            except OvertoneError as error:
                problems = getattr(error, "problems", None) or [str(error)]
                log.warning("%s@%s cannot be served: %s", name, number, error)
            except Exception as error:
                log.exception("%s@%s cannot be served", name, number)
                problems = [f"it could not be fetched ({type(error).__name__})"]
            self._damaged[version.place] = (time.monotonic(), problems)
        with self._lock:
            if self._is_here(name):
                self._drop(name)
            self._broken[name] = problems

    @contextmanager
    def _obtained(self, name: str, number: int, version: Version) -> Iterator[Prepared]:
        """A version's files, from here where they lie here whole, else from the store.

        Raises AdapterRejected when they are damaged or do not fit, SharedStoreFailed.
        """
        for folder in (self._store.past(name, number), self.root / name):
            if _is(folder, version):
                yield self._checked(folder, name, number)
                return
        with self._store.workspace() as folder:
            self.shared.download(version, folder)
            self._store.sync(folder)
            yield self._checked(folder, name, number)

    def _checked(self, folder: Path, name: str, number: int) -> Prepared:
        report = self.check(folder)
        if not report.ok:
            raise AdapterRejected("The adapter does not fit", report.problems)
        manifest = read_manifest(folder) or describe(folder, name, number, report, self._spec, {})
        return Prepared(folder, manifest, report)

    def _install(self, name: str, new: Prepared) -> Adapter:
        """Serve this version from now on; the one before joins the history."""
        with self._lock, self._store.alone():
            if new.folder != self.root / name:
                current = self._adapters.get(name)
                if current is None and self._is_here(name):
                    self._store.set_aside(name)
                self._store.switch(name, new.folder, current.version if current else None)
            self._strangers.discard(name)
            return self._put(name, new.manifest, new.report)

    def _drop(self, name: str) -> None:
        with self._lock, self._store.alone():
            current = self._adapters.get(name)
            if current is not None:
                self._store.remove(name, current.version)
            elif self._is_here(name):
                self._store.set_aside(name)
            self._strangers.discard(name)
            self._forget(name)

    def _state(self) -> State:
        assert self.state is not None, "after a look"
        return self.state

    def hold(self, state: State) -> None:
        """Never an older one. Remembered for a start at which the store cannot be reached."""
        with self._lock:
            if self.state is not None and self.state.number >= state.number:
                return
            self.state = state
            draft = self._memory.with_suffix(".draft")
            draft.write_text(state.model_dump_json(by_alias=True))
            draft.replace(self._memory)

    def _remembered(self) -> State | None:
        try:
            return State.model_validate_json(self._memory.read_text())
        except (OSError, ValueError):
            return None

    @property
    def _memory(self) -> Path:
        return self.root / f".shared-{self.shared.identity}.json"

    def _is_here(self, name: str) -> bool:
        return (self.root / name).exists()

    def _foreign(self, name: str, folder: Path) -> list[str]:
        """Called by `refresh` for a folder that it has not seen: a version of the store, or a stranger."""
        self._strangers.discard(name)
        version = self.state.current(name) if self.state else None
        if version is not None and _is(folder, version):
            return []
        self._strangers.add(name)
        return [NOT_SHARED]

    def _number_found(self, name: str, own: int, signature: Signature, written: bool) -> int:
        return own  # the manifest is one of the files that are the store's

    def _next_number(self, name: str) -> int:
        return self.state.next_number(name) if self.state else super()._next_number(name)


class SharedChoices(Choices):
    """Selections that all replicas share."""

    def __init__(self, registry: SharedRegistry) -> None:
        super().__init__()
        self._registry = registry

    def all(self) -> Chosen:
        state = self._registry.state
        return state.selected if state else {}

    def change(self, edit: Callable[[Chosen], None]) -> None:
        """Raises SharedStoreFailed."""
        self._registry.hold(self._registry.shared.change(lambda state: edit(state.selected)))


def _is(folder: Path, version: Version) -> bool:
    """Whether a folder holds exactly a version's files."""
    try:
        found = {file.name for file in folder.iterdir() if file.is_file()}
        return found == set(version.files) and all(sha256_of(folder / n) == s for n, s in version.files.items())
    except OSError:
        return False
