"""Clips to audio embeddings: only the valid frames are encoded, and no clip is encoded twice."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from cachetools import LRUCache
from torch import nn
from torch.func import functional_call

from app.engine.lora.layers import LoRABank
from app.models import layout
from app.models.family import family_of
from app.models.features import Clip

if TYPE_CHECKING:
    from app.engine.cuda.encoder_graphs import EncoderGraphs

Row = Mapping[str, float]
CacheKey = tuple[str, tuple[tuple[str, float], ...]]


class AudioEncoder:
    """Tower and projector, with a cache of at most ``cache_bytes`` of the tower's outputs.

    A cache key is the clip and the adapters on the tower: requests without such adapters share an entry, and so do
    classifiers. The projector, one small product with a larger output, is computed each time.
    """

    def __init__(self, model: Any, bank: LoRABank, cache_bytes: int, graphs: "EncoderGraphs | None") -> None:
        self._encode = family_of(model.config).tower.run
        self._tower = layout.audio_tower(model)
        self._projector: nn.Module = layout.projector(model)
        self._bank = bank
        self._graphs = graphs
        self._cache = LRUCache[CacheKey, torch.Tensor](cache_bytes, lambda hidden: hidden.nbytes)
        self.hits = 0
        self.misses = 0

    def warm_up(self) -> None:
        """Capture the tower, if there are CUDA graphs."""
        if self._graphs:
            self._graphs.warm_up()

    def embed(self, clips: Sequence[Clip], tower: Row, projector: Row) -> torch.Tensor:
        """Embeddings [audio tokens of all clips, hidden size].

        ``tower``, ``projector``: weights of the adapters on each part, by uid.
        """
        own = self._bank.projector(projector)
        prefix = f"{layout.PROJECTOR}."
        parameters = {path.removeprefix(prefix): tensor for path, tensor in (own or {}).items()}
        embeddings = None
        first = 0
        for clip in clips:  # one after the other: a request's clips together would take memory for ten minutes of audio
            hidden = self.encode(clip, tower)[None]
            self._bank.select([projector])
            projected: torch.Tensor = functional_call(self._projector, parameters, (hidden,))[0]
            if embeddings is None:
                embeddings = projected.new_empty(sum(one.tokens for one in clips), projected.shape[1])
            embeddings[first : first + len(projected)] = projected
            first += len(projected)
        assert embeddings is not None
        return embeddings

    def encode(self, clip: Clip, row: Row) -> torch.Tensor:
        """The tower's output [audio tokens, tower width]. ``row``: weights of the adapters on the tower, by uid."""
        key = (clip.key, tuple(sorted(row.items())))
        if key in self._cache:
            self.hits += 1
            return self._cache[key]
        self.misses += 1
        if self._graphs and not row:
            self._bank.select([])
            hidden = self._graphs.encode(clip)
        else:
            self._bank.select([row])
            (hidden,) = self._encode(self._tower, [clip.mel], [clip.frames])
        if hidden.nbytes <= self._cache.maxsize:
            self._cache[key] = hidden
        return hidden

    def clear(self) -> None:
        """Evict all cached outputs; clips are encoded anew when they are needed."""
        self._cache.clear()
