"""Clips to audio embeddings: only the valid frames are encoded, and nothing is encoded twice."""

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.func import functional_call

from app.engine.lora import AdapterBank
from app.model.features import Clip
from app.model.tower import run_tower

CacheKey = tuple[str, tuple[tuple[str, float], ...]]


class AudioEncoder:
    """Tower and projector, with a cache of embeddings bounded in bytes.

    The key is the clip and the adapters that touch tower or projector, so that adapters which leave
    both alone share an entry.
    """

    def __init__(self, model: Any, bank: AdapterBank, cache_bytes: int) -> None:
        self._tower = model.model.audio_tower
        self._projector: nn.Module = model.model.multi_modal_projector
        self._bank = bank
        self._cache: OrderedDict[CacheKey, torch.Tensor] = OrderedDict()
        self._cache_bytes = cache_bytes
        self._used_bytes = 0
        self.hits = 0
        self.misses = 0

    def encode(self, clips: Sequence[Clip], row: Mapping[str, float]) -> torch.Tensor:
        """Embeddings [audio tokens of all clips, hidden size] under ``row``, the adapters that touch audio."""
        return torch.cat([self._embed(clip, row) for clip in clips])

    def _embed(self, clip: Clip, row: Mapping[str, float]) -> torch.Tensor:
        key = (clip.key, tuple(sorted(row.items())))
        if key in self._cache:
            self.hits += 1
            self._cache.move_to_end(key)
            return self._cache[key]
        self.misses += 1
        embedding = self._run(clip, row)
        self._keep(key, embedding)
        return embedding

    def _run(self, clip: Clip, row: Mapping[str, float]) -> torch.Tensor:
        """The tower over the valid frames, then the projector."""
        self._bank.select([row])
        hidden = run_tower(self._tower, [clip.mel], [clip.frames])[0][None]
        own = self._bank.projector(row)
        if own is None:
            projected: torch.Tensor = self._projector(hidden)
        else:
            prefix = "model.multi_modal_projector."
            parameters = {path.removeprefix(prefix): tensor for path, tensor in own.items()}
            projected = functional_call(self._projector, parameters, (hidden,))
        return projected[0]

    def _keep(self, key: CacheKey, embedding: torch.Tensor) -> None:
        self._cache[key] = embedding
        self._used_bytes += embedding.nbytes
        while self._used_bytes > self._cache_bytes:
            _, dropped = self._cache.popitem(last=False)
            self._used_bytes -= dropped.nbytes
