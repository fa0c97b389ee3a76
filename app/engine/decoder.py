"""The language model's step. `ModuleDecoder` needs nothing but torch; `cuda.decoder` is the fast one.

Both take chunks and return the logits of the last position of each final one.
"""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from app.engine.kv_cache.paged_cache import ATTENTION, PagedCache, register
from app.engine.lora.layers import HostAdapter, LoRABank, LoRAColumns
from app.engine.lora.slots import Slot
from app.engine.sampler import finite_argmax
from app.engine.scheduler import Chunk
from app.engine.sequence import Sequence as EngineSequence
from app.models import layout
from app.models.family import family_of


@dataclass(frozen=True)
class AudioEmbeddings:
    """Audio of one chunk: ``embeddings`` [positions, hidden size] replace those at ``positions`` of the chunk."""

    positions: list[int]
    embeddings: torch.Tensor


class Decoder(Protocol):
    """One step of the language model."""

    def step(self, chunks: Sequence[Chunk], audio: Sequence[AudioEmbeddings | None]) -> torch.Tensor:
        """Logits [final chunks, vocabulary] on the device, in the chunks' order. ``audio``: of each chunk, if any."""

    def finite_argmax(self, logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """As `sampler.finite_argmax`."""


class DeviceDecoder(Decoder, Protocol):
    """A decoder that keeps its own adapter columns, and the state of the batch, on the device.

    ``overlaps``: `step` returns before the device is done, and may follow a step whose tokens have not been read yet.
    """

    overlaps: bool

    @property
    def columns(self) -> int:
        """Adapter columns that need no further memory."""

    def warm_up(self) -> None:
        """Compile and capture everything that the first requests would otherwise wait for."""

    def free_memory(self) -> None:
        """Discard the CUDA graphs; passes run without one until they are captured again."""

    def capture_pending(self) -> bool:
        """Capture one shape that has run without a graph; False when there is none."""

    def load(self, slot: Slot, adapter: HostAdapter, capacity: int) -> Iterator[None]:
        """Allocate an adapter's columns at once; its weights are complete when the iterator ends.

        ``capacity``: columns up to the end of the last slot.
        """

    def clear(self, slot: Slot) -> None:
        """Zero the columns of an evicted slot."""

    def free(self, sequence: EngineSequence) -> None:
        """Free a sequence's place in the batch."""

    def keep_tokens(self, sequences: Sequence[EngineSequence], tokens: torch.Tensor) -> None:
        """Keep the tokens just drawn on the device, for steps that begin before the host has read them."""


def weights_by_uid(sequence: EngineSequence) -> Mapping[str, float]:
    """The weights of a sequence's adapters, by uid."""
    return {one.adapter.uid: one.weight for one in sequence.request.lora_weights}


class ModuleDecoder:
    """One packed forward of transformers' own modules, with paged attention and multi-LoRA layers plugged in."""

    def __init__(self, model: Any, bank: LoRABank, cache: PagedCache) -> None:
        register()
        self._language_model: Any = layout.language_model(model)
        self._no_mask = family_of(model.config).language_model.no_mask
        self._language_model.config._attn_implementation = ATTENTION
        self._lm_head: LoRAColumns = model.lm_head
        self._bank, self._cache = bank, cache
        self._device = cache.keys.device

    def finite_argmax(self, logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """As `sampler.finite_argmax`."""
        return finite_argmax(logits)

    def step(self, chunks: Sequence[Chunk], audio: Sequence[AudioEmbeddings | None]) -> torch.Tensor:
        """As `Decoder.step`."""
        embeddings = torch.cat([self._embed(chunk, one) for chunk, one in zip(chunks, audio, strict=True)])[None]
        positions = torch.cat([torch.arange(c.start, c.start + c.tokens) for c in chunks])[None].to(self._device)
        layout = self._cache.plan([(c.sequence.blocks, c.start, c.tokens) for c in chunks])
        self._bank.select([weights_by_uid(c.sequence) for c in chunks], [c.tokens for c in chunks])
        hidden = self._language_model(
            inputs_embeds=embeddings,
            position_ids=positions,
            attention_mask=self._no_mask,
            past_key_values=self._cache,
            use_cache=False,
            layout=layout,
        ).last_hidden_state
        ends = itertools.accumulate(chunk.tokens for chunk in chunks)
        return self._logits(hidden, [end - 1 for end, chunk in zip(ends, chunks, strict=True) if chunk.final])

    def _logits(self, hidden: torch.Tensor, last: list[int]) -> torch.Tensor:
        """Logits [last, vocabulary] of the packed positions ``last``."""
        mask = self._lm_head.mask
        if (
            mask is not None and self._lm_head.own is None
        ):  # otherwise the mask is that of a single row, for all positions
            self._lm_head.mask = mask[:, last]
        logits: torch.Tensor = self._lm_head(hidden[:, last])[0]
        self._lm_head.mask = mask
        return logits

    def _embed(self, chunk: Chunk, audio: AudioEmbeddings | None) -> torch.Tensor:
        """Input embeddings [tokens, hidden size] of a chunk."""
        ids = torch.tensor(chunk.ids, device=self._device)
        embeddings: torch.Tensor = self._language_model.embed_tokens(ids)
        if audio is None:
            return embeddings
        return embeddings.index_copy(0, torch.tensor(audio.positions, device=self._device), audio.embeddings)
