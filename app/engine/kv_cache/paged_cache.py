"""The paged KV cache and the attention over it, plugged into transformers' own decoder layers.

Paging as in "Efficient Memory Management for LLM Serving with PagedAttention" (Kwon et al., 2023).
A step is one packed row of tokens: first one token of each decoding sequence, then prefill chunks.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from transformers import AttentionInterface
from transformers.cache_utils import Cache, DynamicLayer

from app.models.family import head_dim

ATTENTION = "overtone_paged"
GATHERED = 1 << 14  # cached positions that are copied at a time for sequences that decode


@dataclass(frozen=True)
class Span:
    """One prefill chunk: packed rows ``first … last``; ``slots`` [context + chunk] of all it attends to."""

    first: int
    last: int
    slots: torch.Tensor


@dataclass(frozen=True)
class Layout:
    """Cache slots that the tokens of one step are written to and attend to (all index tensors on the device).

    ``write`` [tokens]: cache slot of each token. ``gather`` [decode, longest]: slots that each decoding
    row reads, the null slot beyond its length. ``mask`` [decode, 1, 1, longest]: True where valid.
    """

    write: torch.Tensor
    decode: int
    gather: torch.Tensor
    mask: torch.Tensor
    spans: tuple[Span, ...]


class PagedCache(Cache):
    """Keys and values of all sequences in shared blocks: [layers, slots + 1, kv heads, head dim].

    The last slot is the null slot: always zero and never written, so that whatever lies in unused
    memory (NaN included) is never read.
    """

    def __init__(self, config: Any, blocks: int, block_size: int, device: torch.device, dtype: torch.dtype) -> None:
        super().__init__(layers=[])
        shape = (config.num_hidden_layers, blocks * block_size + 1, config.num_key_value_heads, head_dim(config))
        self.block_size = block_size
        self.null = blocks * block_size
        self.keys = torch.zeros(shape, device=device, dtype=dtype)
        self.values = torch.zeros(shape, device=device, dtype=dtype)
        self._write = torch.empty(0, dtype=torch.long, device=device)

    @staticmethod
    def token_bytes(config: Any, dtype: torch.dtype) -> int:
        """Bytes that one token takes, over all layers."""
        width = int(config.num_key_value_heads) * head_dim(config)
        return 2 * int(config.num_hidden_layers) * width * dtype.itemsize

    def plan(self, chunks: Sequence[tuple[list[int], int, int]]) -> Layout:
        """Layout of a step from (blocks, tokens computed before, tokens now) of each chunk, decodes first."""
        slots = [self._slots(blocks, computed + now) for blocks, computed, now in chunks]
        decode = next((i for i, chunk in enumerate(chunks) if chunk[2] > 1), len(chunks))
        longest = max((len(row) for row in slots[:decode]), default=0)
        gather = torch.full((decode, longest), self.null, dtype=torch.long)
        for row, own in enumerate(slots[:decode]):
            gather[row, : len(own)] = own
        write = [own[len(own) - chunk[2] :] for own, chunk in zip(slots, chunks, strict=True)]
        device = self.keys.device
        self._write = torch.cat(write).to(device)
        spans, first = [], decode
        for own, (_, _, now) in zip(slots[decode:], chunks[decode:], strict=True):
            spans.append(Span(first, first + now, own.to(device)))
            first += now
        mask = (gather != self.null)[:, None, None, :]
        return Layout(self._write, decode, gather.to(device), mask.to(device), tuple(spans))

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Write the step's keys and values [1, kv heads, tokens, head dim]; return the layer's whole cache."""
        self.keys[layer_idx].index_copy_(0, self._write, key_states[0].transpose(0, 1))
        self.values[layer_idx].index_copy_(0, self._write, value_states[0].transpose(0, 1))
        return self.keys[layer_idx], self.values[layer_idx]

    def of_one(self, blocks: list[int], computed: int, tokens: int) -> Cache:
        """The cache of one sequence for transformers' own attention, over its blocks.

        ``computed``: tokens whose keys and values are there; ``tokens``: those computed now. The blocks hold both.
        """
        slots = self._slots(blocks, computed + tokens).to(self.keys.device)
        layers = zip(self.keys, self.values, strict=True)
        return Cache(layers=[_OwnLayer(keys, values, slots, computed) for keys, values in layers])

    def _slots(self, blocks: list[int], tokens: int) -> torch.Tensor:
        """Cache slots of the first ``tokens`` tokens of a sequence."""
        starts = torch.tensor(blocks, dtype=torch.long) * self.block_size
        return (starts[:, None] + torch.arange(self.block_size)).view(-1)[:tokens]


class _OwnLayer(DynamicLayer):
    """One layer of one sequence's cache. ``keys``, ``values``: of all slots; ``slots``: the sequence's, in order."""

    def __init__(self, keys: torch.Tensor, values: torch.Tensor, slots: torch.Tensor, computed: int) -> None:
        super().__init__()
        self._all = keys, values
        self._slots, self._computed = slots, computed

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Write new keys and values [1, kv heads, tokens, head dim]; return those of the whole sequence."""
        first, self._computed = self._computed, self._computed + key_states.shape[-2]
        found = []
        for held, states in zip(self._all, (key_states, value_states), strict=True):
            held.index_copy_(0, self._slots[first : self._computed], states[0].transpose(0, 1).to(held.dtype))
            found.append(held.index_select(0, self._slots[: self._computed]).transpose(0, 1)[None])
        return found[0], found[1]

    def get_seq_length(self) -> int:
        """Tokens whose keys and values are there."""
        return self._computed


def paged_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float,
    layout: Layout,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Attention of packed queries [1, heads, tokens, head dim] over one layer's cache [slots, kv heads, head dim].

    Returns [1, tokens, heads, head dim], as transformers' AttentionInterface wants it.
    """
    queries = query[0].transpose(0, 1)  # [tokens, heads, head dim]
    gqa = query.shape[1] != key.shape[1]
    outputs = []
    together = max(1, GATHERED // max(1, layout.gather.shape[1]))
    for first in range(0, layout.decode, together):
        rows = slice(first, min(first + together, layout.decode))
        own_keys, own_values = _gather(key, layout.gather[rows]), _gather(value, layout.gather[rows])
        attended = F.scaled_dot_product_attention(
            queries[rows, :, None], own_keys, own_values, attn_mask=layout.mask[rows], scale=scaling, enable_gqa=gqa
        )
        outputs.append(attended[:, :, 0])
    for span in layout.spans:
        outputs.append(
            _prefill(
                queries[span.first : span.last],
                key.index_select(0, span.slots),
                value.index_select(0, span.slots),
                scaling,
                gqa,
            )
        )
    return torch.cat(outputs)[None], None


def _gather(cache: torch.Tensor, slots: torch.Tensor) -> torch.Tensor:
    """Slots [rows, longest] of a layer's cache as [rows, kv heads, longest, head dim]."""
    rows, longest = slots.shape
    return cache.index_select(0, slots.view(-1)).view(rows, longest, *cache.shape[1:]).transpose(1, 2)


def _prefill(
    queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, scaling: float, gqa: bool
) -> torch.Tensor:
    """Causal attention of a chunk [chunk, heads, head dim] over its context and itself."""
    chunk, total = queries.shape[0], keys.shape[0]
    mask = None
    if chunk < total:
        mask = torch.ones(chunk, total, dtype=torch.bool, device=queries.device).tril(total - chunk)
    attended = F.scaled_dot_product_attention(
        queries.transpose(0, 1)[None],
        keys.transpose(0, 1)[None],
        values.transpose(0, 1)[None],
        attn_mask=mask,
        is_causal=mask is None,
        scale=scaling,
        enable_gqa=gqa,
    )
    return attended[0].transpose(0, 1)


def register() -> None:
    """Make the paged attention known to transformers under the name `ATTENTION`."""
    AttentionInterface.register(ATTENTION, paged_attention)
