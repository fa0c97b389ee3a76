"""Adapter weights in host memory, read from disk off the engine's thread."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import torch
from cachetools import LRUCache

from app.engine.lora.layers import HostAdapter, prepare
from app.registry.adapter import Adapter
from app.registry.adapter_files.weights import read_weights
from app.registry.base import Registry

T = TypeVar("T")


class HostCache:
    """Weights by uid, at most ``max_bytes`` of them or one larger adapter; the least recently used are evicted first.

    Called on the engine's thread only. ``ready`` is called on the reading thread when weights have been read.
    """

    def __init__(self, registry: Registry, dtype: torch.dtype, max_bytes: int, ready: Callable[[], None]) -> None:
        self._registry = registry
        self._dtype = dtype
        self._ready = ready
        self._held = LRUCache[str, HostAdapter](max_bytes, lambda adapter: min(adapter.nbytes, max_bytes))
        self._loading: dict[str, Future[HostAdapter]] = {}
        self._reader = ThreadPoolExecutor(1, thread_name_prefix="overtone-adapters")

    def get(self, adapter: Adapter) -> HostAdapter | None:
        """The weights, or None while they are being read. Raises the error of a reading that failed."""
        uid = adapter.uid
        if uid in self._loading and self._loading[uid].done():
            self._held[uid] = self._loading.pop(uid).result()
        if uid in self._held:
            return self._held[uid]
        if uid not in self._loading:
            self._loading[uid] = self.read(adapter, self._prepared)
        return None

    def read(self, adapter: Adapter, make: Callable[[Path], T]) -> "Future[T]":
        """Result of ``make`` over an adapter's folder, computed on the reading thread."""
        future = self._reader.submit(self._registry.read_with, adapter, make)
        future.add_done_callback(lambda _: self._ready())
        return future

    @property
    def uids(self) -> frozenset[str]:
        return frozenset(self._held)

    def clear(self) -> None:
        """Evict all weights; the next request reads them from disk."""
        self._held.clear()

    def close(self) -> None:
        """End the reading thread."""
        self._reader.shutdown(wait=False, cancel_futures=True)

    def _prepared(self, folder: Path) -> HostAdapter:
        return prepare(read_weights(folder), self._dtype)
