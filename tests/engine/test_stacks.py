"""The columns of the fused decoder's stacks: growing, failing to grow, giving back."""

import pytest
import torch

from app.engine import stacks
from app.engine.lora import HostAdapter, Pair
from app.engine.slots import Slot
from app.engine.stacks import LoraStacks
from tests.support import random_model

Q, K = "self_attn.q_proj", "self_attn.k_proj"


def adapter(rank, value):
    pair = {Q: (64, 64), K: (64, 32)}
    made = {
        name: Pair(torch.full((3, rank, inner), value), torch.full((3, outer, rank), value))
        for name, (inner, outer) in pair.items()
    }
    return HostAdapter({}, {}, rank, 0, made)


@pytest.fixture
def held():
    made = LoraStacks(random_model().model, 4, torch.device("cpu"), torch.float32)
    made.load(Slot("first@1", 0, 64), adapter(64, 1.0), 64)
    made.seat(1, {"first@1": 0.5})
    return made


def values(held):
    """A of q and k, B of q and k: the first column of each adapter that has one."""
    group, columns = held.groups["qkv"], held.columns
    return [group.a[0, ::columns, 0].tolist(), [float(b[0, 0, 0]) for b in group.b]]


def test_growing_keeps_what_is_there(held):
    before = held.layout
    held.load(Slot("second@1", 64, 8), adapter(8, 2.0), 72)
    assert held.columns == 128
    assert held.layout != before
    assert values(held) == [[1.0, 1.0, 0.0], [1.0, 1.0, 0.0]]
    assert held.groups["qkv"].a[0, [64, 72, 128 + 64], 0].tolist() == [2.0, 0.0, 2.0]
    assert held.shares[1].tolist() == [0.5] * 64 + [0.0] * 64


@pytest.mark.parametrize("call", range(5))
def test_without_memory_nothing_changes(held, monkeypatch, call):
    """Neither by the attempt nor by the clearing that follows it."""
    calls, original, second = [], stacks.pad, Slot("second@1", 64, 8)

    def failing(*arguments):
        calls.append(arguments)
        if len(calls) > call:
            raise MemoryError("planted")
        return original(*arguments)

    before = held.layout, held.shares.clone(), held.groups["qkv"].a.clone(), [b.clone() for b in held.groups["qkv"].b]
    monkeypatch.setattr(stacks, "pad", failing)
    with pytest.raises(MemoryError):
        held.load(second, adapter(8, 2.0), 72)
    held.clear(second)
    group = held.groups["qkv"]
    assert held.layout == before[0]
    assert torch.equal(held.shares, before[1])
    assert torch.equal(group.a, before[2])
    assert all(torch.equal(*pair) for pair in zip(group.b, before[3], strict=True))
    monkeypatch.undo()
    held.load(second, adapter(8, 2.0), 72)
    assert held.columns == 128


def test_columns_given_back_leave_no_range_behind(held):
    """Padding reads seat 0's range, which must not lie beyond the columns."""
    held.load(Slot("second@1", 64, 8), adapter(8, 2.0), 72)
    held.seat(0, {"second@1": 1.0})
    held.clear(Slot("first@1", 0, 64))
    held.clear(Slot("second@1", 64, 8))
    assert held.columns == 64
    assert not held.groups
    assert int(held.ranges.max()) <= held.columns
