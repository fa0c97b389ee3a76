"""Classifiers in host memory: a few kB each, so the device never holds one."""

import threading

from cachetools import LRUCache

from app.models.head import Head, read_head
from app.registry.adapter import Adapter
from app.registry.base import Registry

KEPT = 32


class Heads:
    """The classifiers used last, by uid. Safe to use from any thread."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._held = LRUCache[str, Head](KEPT)
        self._lock = threading.Lock()

    def get(self, adapter: Adapter) -> Head:
        """The classifier of exactly this version. Blocking. Raises as `Registry.read_with` does."""
        with self._lock:
            if adapter.uid in self._held:
                return self._held[adapter.uid]
        head = self._registry.read_with(adapter, read_head)
        with self._lock:
            self._held[adapter.uid] = head
        return head

    def holds(self, uid: str) -> bool:
        return uid in self._held
