"""The language model's LoRA columns for the fused decoder: one stack over all layers for each projection.

The layout needs few launches: the A of projections that read the same input are interleaved column by column, so the
first ``columns`` of all of them are one matrix, one product computes every z, and a step reads no further than its
own adapters reach.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from app.engine.cuda.pinned import pinned
from app.engine.lora.layers import HostAdapter
from app.engine.lora.slots import COLUMNS, Slot, rounded
from app.models.device_memory import is_out_of_memory
from app.models.family import PACKED_PROJECTIONS as GROUPS
from app.models.layout import language_model

_GROUP_OF = {name: (group, index) for group, names in GROUPS.items() for index, name in enumerate(names)}
PIECE = 16 << 20  # bytes of an adapter that are copied between two steps: a few milliseconds
HEAD = frozenset(GROUPS["head"])
LAYERS = frozenset(_GROUP_OF) - HEAD
QUERY_VALUE = frozenset({"self_attn.q_proj", "self_attn.v_proj"})


@dataclass(frozen=True)
class Reach:
    """Columns that a step reads: the first ``columns`` of each of ``projections``. Steps of equal reach share a graph.

    To have few graphs, columns are rounded up to powers of two, and projections to q and v or all of a layer.
    """

    columns: int
    projections: frozenset[str]

    def reads(self, group: str) -> bool:
        return not self.projections.isdisjoint(GROUPS[group])


@dataclass(frozen=True)
class Group:
    """``tensors``: A [layers, columns, projections, in], then for each projection B [layers, columns, out]."""

    tensors: list[torch.Tensor]

    @property
    def a(self) -> torch.Tensor:
        return self.tensors[0]

    @property
    def b(self) -> list[torch.Tensor]:
        return self.tensors[1:]


class StackedWeights:
    """Columns of all resident adapters, and the weights of those columns for each batch index.

    ``lora_weights`` [batch, columns] are 0 outside the adapters of an index; ``ranges`` [batch, 2]: its first column
    and the one after its last. ``padding_index``, the last index, never has adapters; rows of padding use it.
    ``most_columns``: no more are allocated; None without a limit.
    """

    def __init__(
        self, model: Any, batch_size: int, device: torch.device, dtype: torch.dtype, most_columns: int | None = None
    ) -> None:
        layers = language_model(model).layers
        self._linears = {name: layers[0].get_submodule(name) for name in LAYERS}
        self._linears["lm_head"] = model.lm_head
        self._depth = {name: 1 if name in HEAD else len(layers) for name in _GROUP_OF}
        self._device, self._dtype = device, dtype
        self.padding_index = batch_size - 1
        self.columns = self._reserved = COLUMNS
        self._most_columns = most_columns
        self.generation = 0  # changes when a tensor that a captured graph may read is replaced
        self.groups: dict[str, Group] = {}
        self.lora_weights = torch.zeros(batch_size, self.columns, device=device)
        self.ranges = torch.zeros(batch_size, 2, device=device, dtype=torch.int32)
        self._slots: dict[str, tuple[Slot, frozenset[str]]] = {}

    def column_bytes(self) -> int:
        """Bytes of one column of all projections of the layers."""
        widths = ((name, self._linears[name]) for name in LAYERS)
        return self._dtype.itemsize * sum(
            self._depth[name] * int(linear.in_features + linear.out_features) for name, linear in widths
        )

    def reserve(self, columns: int) -> None:
        """Allocate all projections of the layers at once, so that no adapter of so many columns replaces a tensor."""
        assert not self._slots
        self.groups.clear()
        self.columns = self._reserved = columns
        self.lora_weights = self.lora_weights.new_zeros(len(self.lora_weights), columns)
        for name in sorted(LAYERS):
            self._ensure(name)

    def load(self, slot: Slot, adapter: HostAdapter, capacity: int) -> Iterator[None]:
        """Allocate an adapter's columns at once; each step of the iterator copies a piece of its weights into them.

        ``capacity``: columns up to the end of the last slot.
        """
        self._slots[slot.uid] = slot, frozenset(adapter.stacks)
        self._grow(capacity)
        for name in adapter.stacks:
            self._ensure(name)
        return self._copy(slot, adapter)

    def _copy(self, slot: Slot, adapter: HostAdapter) -> Iterator[None]:
        copied = 0
        for name, stack in adapter.stacks.items():
            group, index = _GROUP_OF[name]
            depth, rank, _ = stack.a.shape
            columns = slice(slot.start, slot.start + rank)
            step = max(1, PIECE * depth // (stack.a.nbytes + stack.b.nbytes))
            for low in range(0, depth, step):
                layers = slice(low, min(low + step, depth))
                a, b = (part[layers].to(self._device, non_blocking=True) for part in (stack.a, stack.b))
                self.groups[group].a[layers, columns, index].copy_(a)
                self.groups[group].b[index][layers, columns].copy_(b.transpose(1, 2))
                copied += a.nbytes + b.nbytes
                if copied >= PIECE:
                    copied = 0
                    yield

    def clear(self, slot: Slot) -> None:
        """Zero an evicted adapter's columns."""
        self._slots.pop(slot.uid, None)
        for held in (
            self.groups.values()
        ):  # a slot may be beyond the end of a tensor that could not grow; slices end with the tensor
            for tensor in held.tensors:
                tensor[:, slot.start : slot.stop].zero_()
        if not self._slots and self.columns > self._reserved:  # no adapter is left: free the memory
            self.groups.clear()
            self.ranges.zero_()
            self.generation += 1
            self.columns = self._reserved
            self.lora_weights = self.lora_weights.new_zeros(len(self.lora_weights), self.columns)

    def reach(self, rows: Iterable[Mapping[str, float]]) -> Reach | None:
        """Reach of a step of ``rows``, the weights of their adapters by uid; None without adapters."""
        used = [self._slots[uid] for uid in {uid for row in rows for uid in row}]
        names = frozenset[str]().union(*(names for _, names in used))
        if not names:
            return None
        columns = COLUMNS
        while columns < max(slot.stop for slot, _ in used):
            columns *= 2
        layers = names - HEAD
        wide = frozenset() if not layers else QUERY_VALUE if layers <= QUERY_VALUE else LAYERS
        return Reach(min(columns, self.columns), wide | (names & HEAD))

    def assign(self, batch_index: int, row: Mapping[str, float]) -> None:
        """Write ``row``, the weights of a sequence's adapters by uid, to its batch index."""
        lora_weights = np.zeros(self.columns, dtype=np.float32)
        slots = [self._slots[uid][0] for uid in row]
        for slot, weight in zip(slots, row.values(), strict=True):
            lora_weights[slot.start : slot.stop] = weight
        low, high = min((slot.start for slot in slots), default=0), max((slot.stop for slot in slots), default=0)
        self.lora_weights[batch_index].copy_(pinned(lora_weights, self._device), non_blocking=True)
        self.ranges[batch_index].copy_(pinned(np.array([low, high], dtype=np.int32), self._device), non_blocking=True)

    def _ensure(self, name: str) -> None:
        """Allocate the columns of a projection's group, unless they exist."""
        group, _ = _GROUP_OF[name]
        if group in self.groups:
            return
        names = GROUPS[group]
        depth, columns = self._depth[name], self.columns
        a = self._zeros((depth, columns, len(names), self._linears[name].in_features))
        b = [self._zeros((depth, columns, self._linears[each].out_features)) for each in names]
        self.groups[group] = Group([a, *b])
        self.generation += name not in HEAD  # graphs that read the columns of lm_head were captured after those existed

    def _grow(self, capacity: int) -> None:
        """Grow to ``capacity`` columns: by powers of two where there is memory for them, otherwise no more than needed.

        Raises the error of the allocation when it fails; the present columns stay.
        """
        wanted = self.columns
        while wanted < capacity:
            wanted *= 2
        wanted = min(wanted, self._most_columns or wanted)
        if wanted == self.columns:
            return
        try:
            self._grow_to(wanted)
        except Exception as error:
            if not is_out_of_memory(error) or rounded(capacity) == wanted:
                raise
        if self.columns < capacity:  # the failed attempt and its exception have ended, so their tensors are free
            self._grow_to(rounded(capacity))

    def _grow_to(self, columns: int) -> None:
        """Grow one tensor after the other, each beside its old one; when one fails, all return to their old size."""
        self.generation += 1
        try:
            for held in self.groups.values():
                for place in range(
                    len(held.tensors)
                ):  # by place: no other reference may keep a tensor that is to be freed
                    if held.tensors[place].shape[1] < columns:
                        self._resize(held.tensors, place, columns)
        except BaseException:
            self._shrink()
            raise
        more = columns - self.columns
        self.lora_weights = torch.cat([self.lora_weights, self.lora_weights.new_zeros(len(self.lora_weights), more)], 1)
        self.columns = columns

    def _shrink(self) -> None:
        """Shrink tensors to `self.columns`, as far as there is memory for the copies; a longer tensor does no harm."""
        for held in self.groups.values():
            for place in range(len(held.tensors)):
                if held.tensors[place].shape[1] > self.columns:
                    try:
                        self._resize(held.tensors, place, self.columns)
                    except Exception as error:
                        if not is_out_of_memory(error):
                            raise

    def _resize(self, held: list[torch.Tensor], place: int, columns: int) -> None:
        """Replace one tensor by a copy of ``columns`` columns; it stays where there is no memory for both."""
        old = held[place]
        kept = min(old.shape[1], columns)
        new = self._zeros([old.shape[0], columns, *old.shape[2:]])
        new[:, :kept].copy_(old[:, :kept])
        held[place] = new

    def _zeros(self, shape: Sequence[int]) -> torch.Tensor:
        return torch.zeros(tuple(shape), device=self._device, dtype=self._dtype)
