"""The registry as one caller sees it: without the adapters of others."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

from app.access.caller import Caller
from app.errors import AdapterNotFound, Forbidden
from app.registry.adapter import Adapter
from app.registry.base import Registry
from app.registry.rules import name_taken, older_versions


class TenantRegistry:
    """Safe to use from any thread. ``whole``: the registry with the adapters of all tenants.

    A method that takes a name raises AdapterNotFound for an adapter that the caller does not see; one that changes
    an adapter raises Forbidden where the caller sees it and may not change it.
    """

    def __init__(self, whole: Registry, caller: Caller) -> None:
        self.whole = whole
        self.caller = caller

    @property
    def root(self) -> Path:
        return self.whole.root

    def refresh(self) -> list[str]:
        """See `Registry.refresh`; the names of all tenants' adapters that changed."""
        return self.whole.refresh()

    def names(self) -> list[str]:
        """Names of adapters that the caller sees and that can be served, in order."""
        return [adapter.name for adapter in self.all()]

    def all(self) -> list[Adapter]:
        """Their current versions."""
        return [adapter for adapter in self.whole.all() if self.caller.sees(adapter.name, adapter.manifest.owner)]

    def broken(self) -> dict[str, list[str]]:
        """Folders that hold no servable adapter, with the reasons."""
        found = self.whole.broken()
        return found if self.caller.sees_all else {name: found[name] for name in found if self._sees(name)}

    def get(self, name: str) -> Adapter:
        """The current version. Raises AdapterRejected for a broken one."""
        self._check_seen(name)
        with self._without_others():
            return self.whole.get(name)

    def versions(self, name: str) -> list[int]:
        """See `Registry.versions`; for a tenant, only versions that are its own."""
        self._check_seen(name)
        with self._without_others():
            found = self.whole.versions(name)
        current = self._number(name)
        if self.caller.tenant is None:
            return found
        owner = self.whole.owner(name)
        return [v for v in found if v == current or self.whole.past_owner(name, v) == owner]

    def version(self, name: str, number: int) -> Adapter:
        """One of `versions`. Raises AdapterNotFound, or AdapterRejected for one that cannot be served."""
        known = self.versions(name)
        if number not in known:
            raise AdapterNotFound(f"{name}@{number}", [f"{name}@{one}" for one in known])
        return self.whole.version(name, number)

    def removed(self) -> dict[str, list[int]]:
        """See `Registry.removed`; only versions that the caller may change."""
        return {
            name: own
            for name, versions in self.whole.removed().items()
            if (own := [v for v in versions if self.caller.may_change(name, self.whole.past_owner(name, v))])
        }

    def intact(self, adapter: Adapter) -> Path:
        """See `Registry.intact`."""
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
        if not self._known(name):
            self.whole.fetch_missing(name)
            if own := self.removed().get(name):
                return self.whole.rollback(name, older_versions(name, own, None, version)[-1])
        self.check_change(name)
        if self.caller.tenant is not None:
            current = self._number(name)
            past = [own for own in self.versions(name) if own != current]
            version = older_versions(name, past, current, version)[-1]
        with self._without_others():
            return self.whole.rollback(name, version)

    def remove(self, name: str) -> None:
        """See `Registry.remove`."""
        self.check_change(name)
        with self._without_others():
            self.whole.remove(name)

    def check_may_publish(self, name: str) -> None:
        """Raises Conflict when the name belongs to another caller."""
        owner = self.whole.owner(name) if self._known(name) else self.caller.tenant
        if not self.caller.may_change(name, owner):
            raise name_taken(name)

    def check_change(self, name: str) -> None:
        """Raises AdapterNotFound or Forbidden unless the caller may change this adapter."""
        self._check_seen(name)
        if not self.caller.may_change(name, self.whole.owner(name)):
            raise Forbidden(f"The adapter {name!r} is not yours: this key may use it, but not change it.")

    @contextmanager
    def _without_others(self) -> Iterator[None]:
        """AdapterNotFound of the whole registry, for an adapter that is being removed, suggests no names of others."""
        try:
            yield
        except AdapterNotFound as error:
            raise AdapterNotFound(error.name, self.names()) from None

    def _number(self, name: str) -> int | None:
        with self._without_others():
            current = self.whole.current(name)
        return current.version if current else None

    def _sees(self, name: str) -> bool:
        return self.caller.sees(name, self.whole.owner(name))

    def _check_seen(self, name: str) -> None:
        """Raises AdapterNotFound for an adapter that the caller does not see."""
        # `..` and other texts that are no names must not reach the file system
        if not self._known(name):
            self.whole.fetch_missing(name)
        if not self._known(name) or not self._sees(name):
            raise AdapterNotFound(name, self.names(), self.removed().get(name, ()))

    def _known(self, name: str) -> bool:
        return name in self.whole.names() or name in self.whole.broken()
