"""Clips to audio embeddings: only the valid frames are encoded, and nothing is encoded twice."""

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.func import functional_call

from app.engine.lora import AdapterBank
from app.model.features import Clip
from app.model.tower import run_tower

if TYPE_CHECKING:
    from app.engine.tower_graphs import TowerGraphs

Row = Mapping[str, float]
CacheKey = tuple[str, tuple[tuple[str, float], ...]]


class AudioEncoder:
    """Tower and projector, with a cache of the tower's outputs bounded in bytes.

    The key is the clip and the adapters that touch the tower: all that leave it alone share an entry, and
    so do classification heads. The projector, one small product with a larger output, is computed each time.
    """

    def __init__(self, model: Any, bank: AdapterBank, cache_bytes: int, graphs: "TowerGraphs | None") -> None:
        self._tower = model.model.audio_tower
        self._projector: nn.Module = model.model.multi_modal_projector
        self._bank = bank
        self._graphs = graphs
        self._cache: OrderedDict[CacheKey, torch.Tensor] = OrderedDict()
        self._cache_bytes = cache_bytes
        self._used_bytes = 0
        self.hits = 0
        self.misses = 0

    def warm_up(self) -> None:
        """Capture the tower where there are graphs."""
        if self._graphs:
            self._graphs.warm_up()

    def encode(self, clips: Sequence[Clip], tower: Row, projector: Row) -> torch.Tensor:
        """Embeddings [audio tokens of all clips, hidden size] under the adapters that touch either part."""
        hidden = torch.cat([self.hear(clip, tower) for clip in clips])[None]
        self._bank.select([projector])
        own = self._bank.projector(projector)
        if own is None:
            projected: torch.Tensor = self._projector(hidden)
        else:
            prefix = "model.multi_modal_projector."
            parameters = {path.removeprefix(prefix): tensor for path, tensor in own.items()}
            projected = functional_call(self._projector, parameters, (hidden,))
        return projected[0]

    def hear(self, clip: Clip, row: Row) -> torch.Tensor:
        """The tower's output [audio tokens, tower width] under ``row``, the adapters that touch the tower."""
        key = (clip.key, tuple(sorted(row.items())))
        if key in self._cache:
            self.hits += 1
            self._cache.move_to_end(key)
            return self._cache[key]
        self.misses += 1
        if self._graphs and not row:
            self._bank.select([])
            hidden = self._graphs.hear(clip)
        else:
            self._bank.select([row])
            (hidden,) = run_tower(self._tower, [clip.mel], [clip.frames])
        self._keep(key, hidden)
        return hidden

    def drop(self) -> None:
        """Forget what was heard; it is encoded anew when it is wanted."""
        self._cache.clear()
        self._used_bytes = 0

    def _keep(self, key: CacheKey, hidden: torch.Tensor) -> None:
        self._cache[key] = hidden
        self._used_bytes += hidden.nbytes
        while self._used_bytes > self._cache_bytes:
            _, dropped = self._cache.popitem(last=False)
            self._used_bytes -= dropped.nbytes
