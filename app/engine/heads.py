"""Classification heads in host memory: a few kB each, so the device never holds one."""

import threading
from collections import OrderedDict

from app.model.head import Head
from app.registry.registry import Adapter, Registry

KEPT = 32


class Heads:
    """The heads used last. Safe to use from any thread."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._held: OrderedDict[str, Head] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, adapter: Adapter) -> Head:
        """The head of exactly this version. Blocking. Raises as `Registry.folder` does."""
        with self._lock:
            if adapter.uid in self._held:
                self._held.move_to_end(adapter.uid)
                return self._held[adapter.uid]
        head = self._registry.read_head(adapter)
        with self._lock:
            self._held[adapter.uid] = head
            if len(self._held) > KEPT:
                self._held.popitem(last=False)
        return head

    def holds(self, uid: str) -> bool:
        return uid in self._held
