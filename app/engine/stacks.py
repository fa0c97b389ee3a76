"""The language model's LoRA columns for the fused decoder: one stack over all layers for each projection.

Laid out for few launches: the A of projections that read the same input lie column by column side by side, so the
first ``columns`` of all of them are one matrix, one product gives every z, and a step reads no further than its
own adapters reach.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from app.engine.lora import HostAdapter
from app.engine.slots import COLUMNS, Slot, rounded
from app.engine.staging import pinned
from app.errors import DeviceLost
from app.model.device_memory import is_out_of_memory

# projections that read the same input, by group
GROUPS = {
    "qkv": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "out": ("self_attn.o_proj",),
    "mlp": ("mlp.gate_proj", "mlp.up_proj"),
    "down": ("mlp.down_proj",),
    "head": ("lm_head",),
}
_GROUP_OF = {name: (group, index) for group, names in GROUPS.items() for index, name in enumerate(names)}
PIECE = 16 << 20  # bytes of an adapter that are copied between two steps: a few milliseconds
HEAD = frozenset(GROUPS["head"])
LAYERS = frozenset(_GROUP_OF) - HEAD
QUERY_VALUE = frozenset({"self_attn.q_proj", "self_attn.v_proj"})


@dataclass(frozen=True)
class Reach:
    """What the adapters of a step read: the first ``columns`` of ``projections``. Steps of equal reach share a graph.

    To have few of them, columns are counted in powers of two, and projections are q and v or all of a layer's.
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


class LoraStacks:
    """Columns of all resident adapters, and which of them each seat of the batch uses.

    The last of the ``seats`` is nobody's: it never has columns, and rows of padding have it.
    """

    def __init__(self, model: Any, seats: int, device: torch.device, dtype: torch.dtype) -> None:
        layers = model.model.language_model.layers
        self._linears = {name: layers[0].get_submodule(name) for name in LAYERS}
        self._linears["lm_head"] = model.lm_head
        self._depth = {name: 1 if name in HEAD else len(layers) for name in _GROUP_OF}
        self._device, self._dtype = device, dtype
        self.nobody = seats - 1
        self.columns = self._reserved = COLUMNS
        self.generation = 0  # changes when a tensor that a captured graph may read is another one
        self.groups: dict[str, Group] = {}
        self.shares = torch.zeros(seats, self.columns, device=device)
        self.ranges = torch.zeros(seats, 2, device=device, dtype=torch.int32)
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
        self.shares = self.shares.new_zeros(len(self.shares), columns)
        for name in sorted(LAYERS):
            self._ensure(name)

    def load(self, slot: Slot, adapter: HostAdapter, capacity: int) -> Iterator[None]:
        """Make room for an adapter, at once; each turn of what is returned copies a piece of it into its columns.

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
        for held in self.groups.values():  # slices end where a tensor does: a slot may lie beyond, for want of memory
            for tensor in held.tensors:
                tensor[:, slot.start : slot.stop].zero_()
        if not self._slots and self.columns > self._reserved:  # nobody left: give the memory back
            self.groups.clear()
            self.ranges.zero_()
            self.generation += 1
            self.columns = self._reserved
            self.shares = self.shares.new_zeros(len(self.shares), self.columns)

    def reach(self, rows: Iterable[Mapping[str, float]]) -> Reach | None:
        """What a step of these ``rows``, the weights of their adapters by uid, reads; None without any column."""
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

    def seat(self, seat: int, row: Mapping[str, float]) -> None:
        """Let a seat use ``row``, the weights of its adapters by uid."""
        shares = np.zeros(self.columns, dtype=np.float32)
        slots = [self._slots[uid][0] for uid in row]
        for slot, weight in zip(slots, row.values(), strict=True):
            shares[slot.start : slot.stop] = weight
        low, high = min((slot.start for slot in slots), default=0), max((slot.stop for slot in slots), default=0)
        self.shares[seat].copy_(pinned(shares, self._device), non_blocking=True)
        self.ranges[seat].copy_(pinned(np.array([low, high], dtype=np.int32), self._device), non_blocking=True)

    def _ensure(self, name: str) -> None:
        """Make room for a projection, and for those of its group, when it is touched for the first time."""
        group, _ = _GROUP_OF[name]
        if group in self.groups:
            return
        names = GROUPS[group]
        depth, columns = self._depth[name], self.columns
        a = self._zeros((depth, columns, len(names), self._linears[name].in_features))
        b = [self._zeros((depth, columns, self._linears[each].out_features)) for each in names]
        self.groups[group] = Group([a, *b])
        self.generation += name not in HEAD  # what reads the head's columns was captured when there were some

    def _grow(self, capacity: int) -> None:
        """Columns for ``capacity``: twice as many where there is memory for them, else no more than needed.

        Raises what allocating raised when there is not; whatever was there stays.
        """
        wanted = self.columns
        while wanted < capacity:
            wanted *= 2
        if wanted == self.columns:
            return
        try:
            self._grow_to(wanted)
        except Exception as error:
            if not is_out_of_memory(error) or rounded(capacity) == wanted:
                raise
        if self.columns < capacity:  # the failed attempt is over, and with its exception what that held
            self._grow_to(rounded(capacity))

    def _grow_to(self, columns: int) -> None:
        """One tensor after the other; as long as before, all of them, when one fails."""
        self.generation += 1
        try:
            self._resize_all(columns)
        except BaseException:
            self._resize_all(self.columns)
            raise
        more = columns - self.columns
        self.shares = torch.cat([self.shares, self.shares.new_zeros(len(self.shares), more)], 1)
        self.columns = columns

    def _resize_all(self, columns: int) -> None:
        for held in self.groups.values():
            for place in range(len(held.tensors)):  # by place: nothing else may keep a tensor that is to be freed
                if held.tensors[place].shape[1] != columns:
                    self._resize(held.tensors, place, columns)

    def _resize(self, held: list[torch.Tensor], place: int, columns: int) -> None:
        """``columns`` for one tensor, beside the old one where there is memory for both, else by way of the host."""
        old = held[place]
        shape = [old.shape[0], columns, *old.shape[2:]]
        kept = min(old.shape[1], columns)
        try:
            new = self._zeros(shape)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
        else:
            new[:, :kept].copy_(old[:, :kept])
            held[place] = new
            return
        host = old.to("cpu", copy=True)
        held[place] = old = host[:0]
        try:
            new = self._zeros(shape)
        except Exception:
            held[place] = self._again(host)
            raise
        new[:, :kept].copy_(host[:, :kept])
        held[place] = new

    def _again(self, kept: torch.Tensor) -> torch.Tensor:
        """What was on the device a moment ago, back in its place. Raises DeviceLost where another has taken that."""
        try:
            return self._zeros(kept.shape).copy_(kept)
        except Exception as error:
            raise DeviceLost from error

    def _zeros(self, shape: Sequence[int]) -> torch.Tensor:
        return torch.zeros(tuple(shape), device=self._device, dtype=self._dtype)
