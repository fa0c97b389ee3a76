"""The language model's two ways through a step: transformers' modules anywhere, fused kernels on CUDA.

Both take chunks and give last-position logits; `fused_decoder` is the fast one, this file the one that needs
nothing but torch.
"""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

import torch

from app.engine.kv_cache import ATTENTION, PagedCache, register
from app.engine.lora import AdapterBank, HostAdapter, MultiLoRALinear
from app.engine.request import Sequence as EngineSequence
from app.engine.sampler import likeliest
from app.engine.scheduler import Chunk
from app.engine.slots import Slot

Heard = tuple[list[int], torch.Tensor]  # where in a chunk audio stands, and its embeddings


class Embedder(Protocol):
    """Puts the audio of a chunk in place of its placeholders."""

    def __call__(self, chunk: Chunk) -> Heard | None:
        """Places in the chunk and their embeddings [places, hidden size]; None for a chunk without audio."""


class Decoder(Protocol):
    """``overlaps``: `step` returns before the device is done, and may follow a step whose tokens nobody read yet.

    ``columns``: of adapters that can be resident without more memory.
    """

    overlaps: bool

    @property
    def columns(self) -> int: ...

    def warm_up(self) -> None: ...

    def catch_up(self) -> bool:
        """Do, while nothing else is to be done, a piece of what makes later steps faster; False when there is none."""

    def load(self, slot: Slot, adapter: HostAdapter, capacity: int) -> Iterator[None]:
        """Make room for an adapter, at once; its weights are there when what is returned has come to its end."""

    def clear(self, slot: Slot) -> None: ...

    def forget(self, sequence: EngineSequence) -> None: ...

    def step(self, chunks: Sequence[Chunk], audio: Embedder) -> torch.Tensor:
        """Logits [final chunks, vocabulary] on the device, in the chunks' order."""

    def likeliest(self, logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """As `sampler.likeliest`."""

    def keep(self, sequences: Sequence[EngineSequence], tokens: torch.Tensor) -> None:
        """Remember the tokens just drawn, for steps that begin before the host has read them."""


def row_of(sequence: EngineSequence) -> Mapping[str, float]:
    """The weights of a sequence's adapters by uid."""
    return {share.adapter.uid: share.weight for share in sequence.request.shares}


class ModuleDecoder:
    """One packed forward of transformers' own modules, with paged attention and multi-LoRA layers plugged in."""

    overlaps = False

    def __init__(self, model: Any, bank: AdapterBank, cache: PagedCache) -> None:
        register()
        self._language_model: Any = model.model.language_model
        self._language_model.config._attn_implementation = ATTENTION
        self._lm_head: MultiLoRALinear = model.lm_head
        self._bank, self._cache = bank, cache
        self._device = cache.keys.device

    @property
    def columns(self) -> int:
        return self._bank.columns

    def warm_up(self) -> None:
        """Nothing to compile."""

    def catch_up(self) -> bool:
        return False

    def load(self, slot: Slot, adapter: HostAdapter, capacity: int) -> Iterator[None]:
        """The bank holds the language model's columns too."""
        return iter(())

    def clear(self, slot: Slot) -> None:
        """As `load`: the bank clears them."""

    def forget(self, sequence: EngineSequence) -> None:
        """Nothing is kept for a sequence."""

    def likeliest(self, logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return likeliest(logits)

    def keep(self, sequences: Sequence[EngineSequence], tokens: torch.Tensor) -> None:
        """Not wanted: every step waits for the last one's tokens."""

    def step(self, chunks: Sequence[Chunk], audio: Embedder) -> torch.Tensor:
        embeddings = torch.cat([self._embed(chunk, audio) for chunk in chunks])[None]
        positions = torch.cat([torch.arange(c.start, c.start + c.tokens) for c in chunks])[None].to(self._device)
        layout = self._cache.plan([(c.sequence.pages, c.start, c.tokens) for c in chunks])
        self._bank.select([row_of(c.sequence) for c in chunks], [c.tokens for c in chunks])
        hidden = self._language_model(
            inputs_embeds=embeddings,
            position_ids=positions,
            attention_mask={"full_attention": None},
            past_key_values=self._cache,
            use_cache=False,
            layout=layout,
        ).last_hidden_state
        ends = itertools.accumulate(chunk.tokens for chunk in chunks)
        return self._head(hidden, [end - 1 for end, chunk in zip(ends, chunks, strict=True) if chunk.final])

    def _head(self, hidden: torch.Tensor, last: list[int]) -> torch.Tensor:
        """Logits [last, vocabulary] of the packed positions ``last`` alone."""
        mask = self._lm_head.mask
        if mask is not None and self._lm_head.own is None:  # else one row's, whatever the position
            self._lm_head.mask = mask[:, last]
        logits: torch.Tensor = self._lm_head(hidden[:, last])[0]
        self._lm_head.mask = mask
        return logits

    def _embed(self, chunk: Chunk, audio: Embedder) -> torch.Tensor:
        """Input embeddings [tokens, hidden size] of a chunk."""
        ids = torch.tensor(chunk.ids, device=self._device)
        embeddings: torch.Tensor = self._language_model.embed_tokens(ids)
        heard = audio(chunk)
        if heard is None:
            return embeddings
        places, sounds = heard
        return embeddings.index_copy(0, torch.tensor(places, device=self._device), sounds)
