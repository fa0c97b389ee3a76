"""Copies of the shared store's versions in the folder of one replica."""

import logging
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

from app.errors import OvertoneError, SharedStoreFailed
from app.registry.adapter import Adapter, Prepared
from app.registry.folder import AdapterFolder
from app.registry.known_state import KnownState, holds_version
from app.registry.remote import RemoteStore
from app.registry.replicated_state import Version

log = logging.getLogger(__name__)
_DOWNLOADS = 4  # at a time
_RETRY_S = 60.0  # until a damaged version is fetched again


class VersionCopies:
    """Fetches versions and makes them current. Safe to use from any thread; every method blocks."""

    def __init__(self, adapters: AdapterFolder, store: RemoteStore, known: KnownState) -> None:
        self._adapters = adapters
        self._store = store
        self._known = known
        self._damaged: dict[str, tuple[float, list[str]]] = {}  # by place in the store: time of the try, problems

    def fetch_all(self, wanted: Iterable[tuple[str, int, Version]]) -> None:
        """Make these versions (name, number, version) current.

        One that is damaged or does not fit is marked broken; while the store cannot be reached, nothing changes.
        """
        with ThreadPoolExecutor(_DOWNLOADS) as pool:
            list(pool.map(lambda one: self._fetch(*one), wanted))

    @contextmanager
    def obtained(self, name: str, number: int, version: Version) -> Iterator[Prepared]:
        """A version's files: those in this folder where they are whole, else a download.

        Raises AdapterRejected when they are damaged or do not fit, SharedStoreFailed.
        """
        for folder in (self._adapters.past_folder(name, number), self._adapters.root / name):
            if holds_version(folder, version):
                yield self._adapters.prepared(folder, name, number, self._adapters.fitting(folder))
                return
        with self._adapters.workspace() as folder:
            self._store.download(version, folder)
            self._adapters.sync(folder)
            yield self._adapters.prepared(folder, name, number, self._adapters.fitting(folder))

    def install(self, name: str, new: Prepared) -> Adapter:
        """Serve this version from now on; the one before joins the history."""
        with self._adapters.changing():
            current = self._adapters.find(name)
            if new.folder != self._adapters.root / name and current is None and self._adapters.exists(name):
                self._adapters.set_aside(name)
            return self._adapters.install(name, new, replaced=current.version if current else None)

    def withdraw(self, name: str) -> None:
        """Serve no version of this name; its folder joins the history, or is put aside where it is no version."""
        with self._adapters.changing():
            current = self._adapters.find(name)
            if current is not None:
                self._adapters.withdraw(name, current.version)
            elif self._adapters.exists(name):
                self._adapters.set_aside(name)
            self._known.unshared.discard(name)
            self._adapters.forget(name)

    def _fetch(self, name: str, number: int, version: Version) -> None:
        tried, problems = self._damaged.get(version.place, (0.0, []))
        if not problems or time.monotonic() > tried + _RETRY_S:
            try:
                with self.obtained(name, number, version) as new:
                    self.install(name, new)
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
        with self._adapters.unchanged():
            if self._adapters.exists(name):
                self.withdraw(name)
            self._adapters.mark_broken(name, problems)
