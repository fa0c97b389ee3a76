"""The registry as engine, service, trainer and command line use it, whatever keeps it."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from app.errors import on_disk
from app.registry.adapter import Adapter
from app.registry.default_adapter import DefaultAdapters
from app.registry.folder import FOLDER, AdapterFolder

T = TypeVar("T")


class Registry(ABC):
    """Adapters by name; every one that is listed fits the base. Safe to use from any thread.

    ``adapters``: the folder on this machine. ``defaults``: the adapters of requests that name none.
    """

    def __init__(self, adapters: AdapterFolder, defaults: DefaultAdapters) -> None:
        self.adapters = adapters
        self.defaults = defaults

    @property
    def root(self) -> Path:
        """The folder of the adapters."""
        return self.adapters.root

    def open(self) -> None:
        """Tidy up after a crash and read the folder; one that cannot be written is served as it is.

        Raises StorageError when there is none and none can be made.
        """
        self.adapters.recover()
        self.refresh()

    def names(self) -> list[str]:
        """Names of adapters that can be served, in order."""
        return self.adapters.names()

    def all(self) -> list[Adapter]:
        """Current versions in the order of their names."""
        return self.adapters.all()

    def broken(self) -> dict[str, list[str]]:
        """Folders that hold no servable adapter, with the reasons."""
        return self.adapters.broken()

    def get(self, name: str) -> Adapter:
        """The current version. Raises AdapterNotFound, or AdapterRejected for a broken one."""
        return self.adapters.get(name)

    def version(self, name: str, number: int) -> Adapter:
        """One version, current or past; see `AdapterFolder.version`."""
        return self.adapters.version(name, number)

    def current(self, name: str) -> Adapter | None:
        """The current version; None for a broken one. Raises AdapterNotFound."""
        return self.adapters.current(name)

    def owner(self, name: str) -> str | None:
        """The tenant that a name belongs to; None for the operator's, for no adapter, and without a manifest."""
        return self.adapters.owner(name)

    def folder(self, adapter: Adapter) -> Path:
        """The folder of this version now. Raises AdapterNotFound or Conflict; see `AdapterFolder.locate`."""
        return self.adapters.locate(adapter)

    def read_with(self, adapter: Adapter, read: Callable[[Path], T]) -> T:
        """The result of ``read`` for the folder of exactly this version; see `AdapterFolder.read_with`."""
        return self.adapters.read_with(adapter, read)

    def intact(self, adapter: Adapter) -> Path:
        """The folder of this version, its files compared with their checksums. Raises as `read_with` does."""
        return self.read_with(adapter, lambda folder: folder)

    @contextmanager
    def workspace(self) -> Iterator[Path]:
        """An empty folder for incoming files, deleted at the end. Raises StorageError, also for the caller's writes."""
        with on_disk(FOLDER), self.adapters.workspace() as folder:
            yield folder

    @abstractmethod
    def versions(self, name: str) -> list[int]:
        """Numbers of all versions, the current one included unless it is broken, oldest first."""

    @abstractmethod
    def removed(self) -> dict[str, list[int]]:
        """Removed adapters that `rollback` brings back, with the numbers of their versions, oldest first."""

    @abstractmethod
    def past_owner(self, name: str, version: int) -> str | None:
        """The tenant that a version in the history belongs to; None as for `owner`."""

    @abstractmethod
    def refresh(self) -> list[str]:
        """Read what has changed; the names that appeared, changed or vanished."""

    @abstractmethod
    def fetch_missing(self, name: str) -> None:
        """Called before a name is reported as unknown: another replica may have published it."""

    @abstractmethod
    def announce_unload(self, names: list[str] | None) -> None:
        """Called when the slots of these adapters, or of all, are freed: other replicas free theirs too."""

    @abstractmethod
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
        """Make a copy of ``folder`` the current version of ``name``; ``fields`` go into its manifest.

        ``owner``: the tenant that publishes; without one, the name keeps its owner. ``hold``: where the name has a
        current version, that stays; the new one joins the history, and `rollback` to its number makes it current.
        Raises BadRequest for the name,
        Conflict when it is taken, AdapterRejected when the adapter does not fit, StorageError, and SharedStoreFailed.
        """

    @abstractmethod
    def rollback(self, name: str, version: int | None = None) -> Adapter:
        """Make an older version current again: the one before, or ``version``; also in place of a broken one.

        A removed adapter comes back as the newest of its versions, or as ``version``. Raises AdapterNotFound, NotFound
        without such a version, AdapterRejected when it no longer fits, Conflict when another change came first,
        StorageError, and SharedStoreFailed.
        """

    @abstractmethod
    def remove(self, name: str) -> None:
        """Take an adapter out of service; its files stay in the history, from where `rollback` brings it back.

        Raises AdapterNotFound, Conflict, StorageError, and SharedStoreFailed.
        """
