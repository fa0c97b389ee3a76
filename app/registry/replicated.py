"""A registry whose truth lies in a store that several replicas share; the folder on this machine is its cache.

Every replica serves, of each name, the version that the shared state names, or none while it does not have it.
`name@version` thus means the same weights everywhere.
"""

import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from app.errors import AdapterNotFound, Conflict, OvertoneError, SharedStoreFailed, on_disk
from app.models.loading import BaseSpec
from app.registry.adapter import Adapter, signature_of
from app.registry.base import Registry
from app.registry.default_adapter import Chosen, DefaultAdapters
from app.registry.folder import FOLDER, AdapterFolder
from app.registry.known_state import KnownState
from app.registry.local import LocalRegistry
from app.registry.remote import RemoteStore
from app.registry.replicated_state import State, Version
from app.registry.rules import NAME, check_name, older_versions
from app.registry.version_copies import VersionCopies

log = logging.getLogger(__name__)


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
    if shared is None:
        return LocalRegistry(root, spec, **bounds)
    return ReplicatedRegistry(root, spec, RemoteStore(shared), **bounds)


class ReplicatedRegistry(Registry):
    """Errors: see `Registry`. A change raises SharedStoreFailed while the store cannot be reached.

    ``on_unload`` is called with the adapters, or None for all, of which another replica has freed the slots.
    """

    def __init__(
        self,
        root: Path,
        spec: BaseSpec,
        store: RemoteStore,
        *,
        max_rank: int,
        keep_versions: int,
        grace_s: float = 0.0,
    ) -> None:
        self.shared = store
        self.on_unload: Callable[[list[str] | None], object] = lambda names: None
        self._known = KnownState(root / f".shared-{store.identity}.json")
        bounds: dict[str, Any] = {"max_rank": max_rank, "keep_versions": keep_versions, "grace_s": grace_s}
        adapters = AdapterFolder(root, spec, self._known, **bounds)
        super().__init__(adapters, SharedDefaults(store, self._known))
        self._keep = keep_versions
        self._copies = VersionCopies(adapters, store, self._known)
        self._refreshed = 0.0  # when the last refresh that reached the store began
        self._unloads_seen: int | None = None
        self._following = threading.RLock()  # never held while something is uploaded

    def versions(self, name: str) -> list[int]:
        state = self._known.state
        entry = state.names.get(name) if state else None
        return sorted(entry.versions) if entry else self.adapters.versions(name)

    def removed(self) -> dict[str, list[int]]:
        state = self._known.state
        if state is None:
            return self.adapters.removed()
        names = sorted(name for name, entry in state.names.items() if entry.current is None and entry.versions)
        return {name: sorted(state.names[name].versions) for name in names}

    def past_owner(self, name: str, version: int) -> str | None:
        state = self._known.state
        known = state.names[name].versions.get(version) if state and name in state.names else None
        return known.owner if known else self.adapters.past_owner(name, version)

    def fetch_missing(self, name: str) -> None:
        """Read the store at once, unless it is known to fail or another thread has read it since this was called."""
        began = time.monotonic()
        if not NAME.fullmatch(name) or self.shared.failure is not None:
            return
        with self._following:
            if self._refreshed < began:
                self.refresh()

    def refresh(self) -> list[str]:
        """Read folder and store; while the store cannot be reached, the versions in the folder are served."""
        with self._following:
            before = {adapter.name: adapter.uid for adapter in self.all()}
            try:
                self._follow()
            except SharedStoreFailed:
                self.adapters.refresh()
            after = {adapter.name: adapter.uid for adapter in self.all()}
        return sorted(name for name in before | after if before.get(name) != after.get(name))

    @on_disk(FOLDER)
    def publish(
        self,
        folder: Path,
        name: str,
        *,
        replace: bool = False,
        owner: str | None = None,
        hold: bool = False,
        **fields: Any,
    ) -> Adapter:
        """See `Registry.publish`: the files are uploaded first, then the name is claimed, then it is served here."""
        check_name(name)
        state = self._follow()
        state.check_free(name, replace, owner)
        current = state.current(name)
        fields["owner"] = owner or (current.owner if current else None)
        with self.adapters.staged(folder) as (copy, report):
            number = self._newest().next_number(name)
            new = self.adapters.seal(copy, report, name, number, fields)
            version = self.shared.upload(new.folder, name, fields["owner"])
            dropped: list[Version] = []

            def claim(state: State) -> None:
                state.check_free(name, replace, owner)
                dropped[:] = state.add(name, number, version, self._keep, hold=hold)

            with self._following:
                try:
                    self._known.update(self.shared.change(claim))
                except Conflict:
                    self.shared.delete([version])
                    raise
                if self._newest().names[name].current == number:
                    adapter = self._copies.install(name, new)
                else:  # fetched from the store once it is wanted
                    adapter = Adapter(name, number, signature_of(new.folder), new.manifest, new.report)
        self.shared.delete(dropped)
        return adapter

    @on_disk(FOLDER)
    def rollback(self, name: str, version: int | None = None) -> Adapter:
        entry = self._follow().names.get(name)
        if entry is None or (entry.current is None and not entry.versions):
            raise AdapterNotFound(name, self.names())
        current = entry.current
        number = older_versions(name, entry.versions.keys() - {current}, current, version)[-1]
        with self._copies.obtained(name, number, entry.versions[number]) as new, self._following:
            self._known.update(self.shared.change(lambda state: state.roll_back(name, current, number)))
            return self._copies.install(name, new)

    @on_disk(FOLDER)
    def remove(self, name: str) -> None:
        self._follow()
        dropped: list[Version] = []
        with self._following:
            self._known.update(self.shared.change(lambda state: dropped.extend(state.remove(name, self._keep))))
            self._copies.withdraw(name)
        self.shared.delete(dropped)

    def announce_unload(self, names: list[str] | None) -> None:
        """Have every other replica free these slots too. Raises SharedStoreFailed."""
        with self._following:
            changed = self.shared.change(lambda state: state.unload(names))
            self._known.update(changed)
            seen, announced = self._unloads_seen or 0, changed.unloads[-1].number
            if announced == seen + 1:  # this replica frees its own slots itself
                self._unloads_seen = announced

    def _follow(self) -> State:
        """Read the newest state and serve the versions that it names; the state. Raises SharedStoreFailed.

        A version that cannot be fetched now stays as it is until the next time.
        """
        with self._following:
            began = time.monotonic()
            self._known.update(self.shared.read())
            self.adapters.refresh()
            for name in sorted(self._known.unshared - set(self._newest().names)):
                self._adopt(name)
            self._fetch_versions()
            self._follow_unloads()
            self._refreshed = began
            return self._newest()

    def _fetch_versions(self) -> None:
        wanted = []
        for name, entry in self._newest().names.items():
            if entry.current is None:
                if self.adapters.exists(name) or name in self.adapters.broken():
                    self._copies.withdraw(name)
                    self.on_unload([name])
            elif (adapter := self.adapters.find(name)) is None or adapter.version != entry.current:
                wanted.append((name, entry.current, entry.versions[entry.current]))
        if wanted:
            self._copies.fetch_all(wanted)

    def _follow_unloads(self) -> None:
        state = self._newest()
        newest = state.unloads[-1].number if state.unloads else 0
        if self._unloads_seen is not None:
            for unload in state.unloads_after(self._unloads_seen):
                self.on_unload(unload.names)
        self._unloads_seen = newest

    def _adopt(self, name: str) -> None:
        """Publish a folder that was there before the store knew its name, or that was put there by hand."""
        self._known.unshared.discard(name)
        try:
            self.publish(self.root / name, name, owner=self.owner(name))
        except SharedStoreFailed:
            self._known.unshared.add(name)  # tried again at the next refresh
        except OvertoneError as error:
            log.warning("the folder %s was not published to the shared store: %s", name, error)
        else:
            log.info("the folder %s was published to the shared store", name)

    def _newest(self) -> State:
        state = self._known.state
        assert state is not None, "the store has been read"
        return state


class SharedDefaults(DefaultAdapters):
    """Selections that all replicas share."""

    def __init__(self, store: RemoteStore, known: KnownState) -> None:
        super().__init__()
        self._store = store
        self._known = known

    def all(self) -> Chosen:
        return self._known.state.selected if self._known.state else {}

    def change(self, edit: Callable[[Chosen], None]) -> None:
        """Apply ``edit`` to the shared selections. Raises SharedStoreFailed."""
        self._known.update(self._store.change(lambda state: edit(state.selected)))
