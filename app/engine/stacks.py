"""The language model's LoRA columns for the fused decoder: one stack over all layers for each projection.

The same masked dense product as `lora`, laid out for few launches: all A of one group of projections lie
below one another, so one product gives every z, and loading an adapter is one copy a projection.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch.nn.functional import pad

from app.engine.lora import HostAdapter
from app.engine.slots import Slot
from app.engine.staging import pinned

# projections that read the same input, by group
GROUPS = {
    "qkv": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "out": ("self_attn.o_proj",),
    "mlp": ("mlp.gate_proj", "mlp.up_proj"),
    "down": ("mlp.down_proj",),
    "head": ("lm_head",),
}
_GROUP_OF = {name: (group, index) for group, names in GROUPS.items() for index, name in enumerate(names)}
_FEWEST_COLUMNS = 64


@dataclass(frozen=True)
class Group:
    """``a`` [layers, projections · columns, in]; ``b``: [layers, columns, out] for each projection.

    ``touched``: the projections that any adapter has had; the others' columns are all zero.
    """

    a: torch.Tensor
    b: tuple[torch.Tensor, ...]
    touched: set[int] = field(default_factory=set)


class LoraStacks:
    """Columns of all resident adapters, and which of them each seat of the batch uses."""

    def __init__(self, model: Any, seats: int, device: torch.device, dtype: torch.dtype) -> None:
        layers = model.model.language_model.layers
        self._linears = {name: layers[0].get_submodule(name) for name in _GROUP_OF if name != "lm_head"}
        self._linears["lm_head"] = model.lm_head
        self._depth = {name: 1 if name == "lm_head" else len(layers) for name in _GROUP_OF}
        self._device, self._dtype = device, dtype
        self.columns = _FEWEST_COLUMNS
        self.groups: dict[str, Group] = {}
        self.shares = torch.zeros(seats, self.columns, device=device)
        self.ranges = torch.zeros(seats, 2, device=device, dtype=torch.int32)
        self._slots: dict[str, Slot] = {}

    @property
    def layout(self) -> object:
        """What a captured graph depends on: it changes when tensors are replaced or more of them are used."""
        return self.columns, {name: frozenset(held.touched) for name, held in self.groups.items()}

    def load(self, slot: Slot, adapter: HostAdapter, capacity: int) -> None:
        """Copy an adapter's stacks into its slot's columns."""
        self._slots[slot.uid] = slot
        self._grow(capacity)
        for name, stack in adapter.stacks.items():
            group, index = _GROUP_OF[name]
            self.touch(name)
            depth, rank, _ = stack.a.shape
            held = self.groups[group]
            first = index * self.columns + slot.start
            held.a[:depth, first : first + rank].copy_(stack.a, non_blocking=True)
            b = stack.b.to(self._device, non_blocking=True).transpose(1, 2)
            held.b[index][:depth, slot.start : slot.start + rank].copy_(b)

    def clear(self, slot: Slot) -> None:
        """Zero an evicted adapter's columns."""
        self._slots.pop(slot.uid, None)
        stop = min(slot.stop, self.columns)  # beyond them lies a slot for which there was no memory
        for held in self.groups.values() if slot.start < stop else ():
            for index, b in enumerate(held.b):
                first = index * self.columns
                held.a[:, first + slot.start : first + stop].zero_()
                b[:, slot.start : stop].zero_()
        if not self._slots and self.columns > _FEWEST_COLUMNS:  # nobody left: give the memory back
            self.columns = _FEWEST_COLUMNS
            self.shares = self.shares.new_zeros(len(self.shares), self.columns)
            self.ranges.zero_()  # rows of padding still read those of a seat that has been left
            self.groups.clear()

    def seat(self, seat: int, row: Mapping[str, float]) -> None:
        """Let a seat use ``row``, the weights of its adapters by uid."""
        shares = np.zeros(self.columns, dtype=np.float32)
        slots = [self._slots[uid] for uid in row]
        for slot, weight in zip(slots, row.values(), strict=True):
            shares[slot.start : slot.stop] = weight
        low, high = min((slot.start for slot in slots), default=0), max((slot.stop for slot in slots), default=0)
        self.shares[seat].copy_(pinned(shares, self._device), non_blocking=True)
        self.ranges[seat].copy_(pinned(np.array([low, high], dtype=np.int32), self._device), non_blocking=True)

    def touch(self, name: str) -> None:
        """Make room for a projection that an adapter touches for the first time."""
        group, index = _GROUP_OF[name]
        if group not in self.groups:
            names = GROUPS[group]
            first = self._linears[names[0]]
            a = self._zeros(self._depth[names[0]], len(names) * self.columns, first.in_features)
            b = [self._zeros(self._depth[name], self.columns, self._linears[name].out_features) for name in names]
            self.groups[group] = Group(a, tuple(b))
        self.groups[group].touched.add(index)

    def _grow(self, capacity: int) -> None:
        """Double the columns until ``capacity`` fits, keeping what is there; all or, out of memory, nothing."""
        before = columns = self.columns
        while columns < capacity:
            columns *= 2
        if columns == before:
            return
        more = columns - before
        shares = pad(self.shares, (0, more))
        groups = {}
        for name, held in self.groups.items():
            depth, rows, width = held.a.shape
            a = pad(held.a.view(depth, rows // before, before, width), (0, 0, 0, more)).view(depth, -1, width)
            groups[name] = Group(a, tuple(pad(b, (0, 0, 0, more)) for b in held.b), held.touched)
        self.columns, self.shares, self.groups = columns, shares, groups

    def _zeros(self, *shape: int) -> torch.Tensor:
        return torch.zeros(shape, device=self._device, dtype=self._dtype)
