"""Adapter weights in host memory, read from disk off the engine's thread."""

from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import torch

from app.engine.lora import HostAdapter, prepare
from app.registry.registry import Adapter, Registry
from app.registry.weights import read_weights


class HostCache:
    """Bounded in bytes, least recently used first out. Called on the engine's thread only."""

    def __init__(self, registry: Registry, dtype: torch.dtype, max_bytes: int, ready: Callable[[], None]) -> None:
        self._registry = registry
        self._dtype = dtype
        self._max_bytes = max_bytes
        self._ready = ready
        self._held: OrderedDict[str, HostAdapter] = OrderedDict()
        self._loading: dict[str, Future[HostAdapter]] = {}
        self._reader = ThreadPoolExecutor(1, thread_name_prefix="overtone-adapters")

    def get(self, adapter: Adapter) -> HostAdapter | None:
        """The weights, or None while they are being read (``ready`` is called when they are there).

        Raises what reading raised, when it failed.
        """
        uid = adapter.uid
        if uid in self._loading and self._loading[uid].done():
            self._keep(uid, self._loading.pop(uid).result())
        if uid in self._held:
            self._held.move_to_end(uid)
            return self._held[uid]
        if uid not in self._loading:
            future = self._reader.submit(self._registry.read_with, adapter, self._prepared)
            self._loading[uid] = future
            future.add_done_callback(lambda _: self._ready())
        return None

    def holds(self, uid: str) -> bool:
        return uid in self._held

    def drop(self) -> None:
        """Forget all that is not being read; the next request reads it from disk."""
        self._held.clear()

    def close(self) -> None:
        self._reader.shutdown(wait=False, cancel_futures=True)

    def _prepared(self, folder: Path) -> HostAdapter:
        return prepare(read_weights(folder), self._dtype)

    def _keep(self, uid: str, adapter: HostAdapter) -> None:
        self._held[uid] = adapter
        while len(self._held) > 1 and sum(held.nbytes for held in self._held.values()) > self._max_bytes:
            self._held.popitem(last=False)
