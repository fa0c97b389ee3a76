"""The registry as one caller sees it: what belongs to others is not there."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

from app.access.caller import Caller
from app.errors import AdapterNotFound, Forbidden, NotFound
from app.registry.registry import Adapter, Registry


class VisibleRegistry:
    """Safe to use from any thread.

    Every method raises AdapterNotFound for what the caller does not see, and those that change something
    Forbidden for what it sees and may not change.
    """

    def __init__(self, whole: Registry, caller: Caller) -> None:
        self.whole = whole
        self.caller = caller

    @property
    def root(self) -> Path:
        return self.whole.root

    def refresh(self) -> list[str]:
        """Look at the folder again; the names that changed, whoever's they are."""
        return self.whole.refresh()

    def names(self) -> list[str]:
        return [adapter.name for adapter in self.all()]

    def all(self) -> list[Adapter]:
        return [adapter for adapter in self.whole.all() if self.caller.sees(adapter.name, adapter.manifest.owner)]

    def broken(self) -> dict[str, list[str]]:
        """Folders that hold no servable adapter, with the reasons."""
        found = self.whole.broken()
        return found if self.caller.sees_all else {name: found[name] for name in found if self._sees(name)}

    def get(self, name: str) -> Adapter:
        """The current version. Raises AdapterRejected for a broken one."""
        self._look(name)
        with self._own_words():
            return self.whole.get(name)

    def versions(self, name: str) -> list[int]:
        """All versions on disk, the current one included, oldest first; a tenant's own alone for a tenant."""
        self._look(name)
        with self._own_words():
            found = self.whole.versions(name)
        current = self._number(name)
        if self.caller.tenant is None:
            return found
        owner = self.whole.owner(name)
        return [v for v in found if v == current or self.whole.past_owner(name, v) == owner]

    def intact(self, adapter: Adapter) -> Path:
        """Where this version lies now; see `Registry.intact`."""
        return self.whole.intact(adapter)

    def workspace(self) -> AbstractContextManager[Path]:
        """See `Registry.workspace`."""
        return self.whole.workspace()

    def publish(self, folder: Path, name: str, *, replace: bool = False, **fields: Any) -> Adapter:
        """See `Registry.publish`; it belongs to the caller's tenant."""
        if self.caller.tenant is None and not self.caller.sees(name, None):
            raise Forbidden(f"This key may not name an adapter so; its names fit {', '.join(self.caller.adapters)}.")
        return self.whole.publish(folder, name, replace=replace, owner=self.caller.tenant, **fields)

    def rollback(self, name: str, version: int | None = None) -> Adapter:
        """See `Registry.rollback`."""
        self.check_change(name)
        if self.caller.tenant is not None:
            current, versions = self._number(name), self.versions(name)
            before = [v for v in versions if current is None or v < current]
            older = before if version is None else [v for v in versions if v == version != current]
            if not older:
                raise NotFound(f"{name!r} has no such older version; there are: {', '.join(map(str, versions))}.")
            version = older[-1]
        with self._own_words():
            return self.whole.rollback(name, version)

    def remove(self, name: str) -> None:
        """See `Registry.remove`."""
        self.check_change(name)
        with self._own_words():
            self.whole.remove(name)

    def check_change(self, name: str) -> None:
        """Raises AdapterNotFound or Forbidden unless the caller may change this adapter."""
        self._look(name)
        if not self.caller.may_change(name, self.whole.owner(name)):
            raise Forbidden(f"The adapter {name!r} is not yours: this key may use it, but not change it.")

    @contextmanager
    def _own_words(self) -> Iterator[None]:
        """An adapter that goes at this moment is missed by the whole registry, which would suggest names of others."""
        try:
            yield
        except AdapterNotFound as error:
            raise AdapterNotFound(error.name, self.names()) from None

    def _number(self, name: str) -> int | None:
        with self._own_words():
            current = self.whole.current(name)
        return current.version if current else None

    def _sees(self, name: str) -> bool:
        return self.caller.sees(name, self.whole.owner(name))

    def _look(self, name: str) -> None:
        # a name that is none (`..`) must not reach the file system
        if not self._known(name):
            self.whole.look_for(name)
        if not self._known(name) or not self._sees(name):
            raise AdapterNotFound(name, self.names())

    def _known(self, name: str) -> bool:
        return name in self.whole.names() or name in self.whole.broken()
