"""The columns of the fused decoder's stacks: growing in little memory, failing to grow, giving back, reach."""

import weakref

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from app.engine.lora.layers import HostAdapter, Pair
from app.engine.lora.slots import Slot
from app.engine.lora.stacked_weights import LAYERS, QUERY_VALUE, Reach, StackedWeights
from tests.support import random_model

Q, K, O, UP = "self_attn.q_proj", "self_attn.k_proj", "self_attn.o_proj", "mlp.up_proj"  # noqa: E741
WIDTHS = {Q: (64, 64), K: (64, 32), O: (64, 64), UP: (64, 96), "lm_head": (64, 262)}
MODEL = random_model().model


def adapter(rank, value, *names):
    made = {}
    for name in names or (Q, K):
        (inner, outer), depth = WIDTHS[name], 1 if name == "lm_head" else 3
        made[name] = Pair(torch.full((depth, rank, inner), value), torch.full((depth, outer, rank), value))
    return HostAdapter({}, {}, rank, 0, made)


class Limited(StackedWeights):
    """Stacks on a device of ``limit`` bytes: of what they allocate, as much can be alive at a time.

    Adapters are loaded to the end at once. ``fragmented``: what is freed cannot be allocated again, as where an
    allocator's blocks are held by other tensors.
    """

    limit = 1 << 40
    fragmented = False

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.used = self.most = 0

    def load(self, *arguments):
        for _ in super().load(*arguments):
            pass

    def _zeros(self, shape):
        new = super()._zeros(shape)
        if self.used + new.nbytes > self.limit:
            raise torch.OutOfMemoryError("planted")
        self.used += new.nbytes
        self.most = max(self.most, self.used)
        weakref.finalize(new, self._freed, new.nbytes)
        return new

    def _freed(self, size):
        if not self.fragmented:
            self.used -= size


def stacks(kind=Limited):
    return kind(MODEL, 4, torch.device("cpu"), torch.float32)


@pytest.fixture
def held():
    made = stacks()
    made.load(Slot("first@1", 0, 64), adapter(64, 1.0, Q, K, O), 64)
    made.assign(1, {"first@1": 0.5})
    return made


def contents(held):
    """All that lies in the first 64 columns, by group."""
    return {name: [tensor[:, :64].clone() for tensor in group.tensors] for name, group in held.groups.items()}


def same(one, other):
    return one.keys() == other.keys() and all(
        torch.equal(*pair) for name in one for pair in zip(one[name], other[name], strict=True)
    )


def test_growing_keeps_what_is_there(held):
    before, generation = contents(held), held.generation
    held.load(Slot("second@1", 64, 8), adapter(8, 2.0), 72)
    assert held.columns == 128
    assert held.generation != generation
    assert same(contents(held), before)
    assert held.groups["qkv"].a[0, [63, 64, 71, 72], 1, 0].tolist() == [1.0, 2.0, 2.0, 0.0]
    assert held.groups["qkv"].b[0][0, [63, 64, 72], 0].tolist() == [1.0, 2.0, 0.0]
    assert held.lora_weights[1].tolist() == [0.5] * 64 + [0.0] * 64


def test_growing_takes_little_more_than_the_difference(held):
    """Beside the old tensors one at a time."""
    held.load(Slot("extra@1", 0, 8), adapter(8, 0.0), 64)
    before, size = contents(held), held.used
    largest = max(tensor.nbytes for group in held.groups.values() for tensor in group.tensors)
    held.limit = 2 * size + largest
    held.load(Slot("second@1", 64, 64), adapter(64, 2.0), 128)
    assert held.columns == 128
    assert held.used == 2 * size
    assert held.most <= held.limit
    assert same(contents(held), before)
    assert float(held.groups["qkv"].a[2, 64:, 1].min()) == 2.0


def test_where_twice_as_many_do_not_fit_as_many_as_needed_do(held):
    held.load(Slot("second@1", 64, 64), adapter(64, 2.0), 128)
    before, size = contents(held), held.used
    largest = max(tensor.nbytes for group in held.groups.values() for tensor in group.tensors)
    held.limit = size * 3 // 2 + largest
    held.load(Slot("third@1", 128, 8), adapter(8, 3.0), 136)
    assert held.columns == 192
    assert same(contents(held), before)
    assert held.groups["qkv"].a[0, [127, 128, 136], 0, 0].tolist() == [2.0, 3.0, 0.0]


@given(room=st.floats(0.0, 1.4), fragmented=st.booleans())
@settings(deadline=None)
def test_without_memory_nothing_changes(room, fragmented):
    """Wherever it ends: neither by the attempt nor by the clearing that follows it."""
    held, second = stacks(), Slot("second@1", 64, 8)
    held.fragmented = fragmented
    held.load(Slot("first@1", 0, 64), adapter(64, 1.0, Q, K, O), 64)
    held.assign(1, {"first@1": 0.5})
    before, lora_weights = contents(held), held.lora_weights.clone()
    held.limit = int(held.used * (1 + room))
    try:
        held.load(second, adapter(8, 2.0), 72)
    except torch.OutOfMemoryError:
        held.clear(second)
        assert held.columns == 64
        assert torch.equal(held.lora_weights, lora_weights)
        lengths = {tensor.shape[1] for group in held.groups.values() for tensor in group.tensors}
        assert min(lengths) == 64
    else:
        assert held.columns >= 72
    assert same(contents(held), before)
    held.limit = 1 << 40
    held.load(second, adapter(8, 2.0), 72)
    assert held.columns == 128
    assert same(contents(held), before)
    assert held.groups["qkv"].a[0, [64, 71, 72], 1, 0].tolist() == [2.0, 2.0, 0.0]


def test_columns_given_back_leave_no_range_behind(held):
    """An index whose sequence has ended keeps its range, which must not lie beyond the columns."""
    held.load(Slot("second@1", 64, 8), adapter(8, 2.0), 72)
    held.assign(0, {"second@1": 1.0})
    held.clear(Slot("first@1", 0, 64))
    held.clear(Slot("second@1", 64, 8))
    assert held.columns == 64
    assert not held.groups
    assert int(held.ranges.max()) <= held.columns


def test_what_is_reserved_is_never_replaced():
    """As on CUDA: adapters come and go within the columns of the plan, and graphs stay good."""
    held = stacks()
    held.reserve(128)
    generation, places = held.generation, [t.data_ptr() for g in held.groups.values() for t in g.tensors]
    for name in (Q, O, UP):
        held.load(Slot("one@1", 64, 64), adapter(64, 1.0, name), 128)
        held.clear(Slot("one@1", 64, 64))
    assert held.generation == generation
    assert [t.data_ptr() for g in held.groups.values() for t in g.tensors] == places
    assert held.column_bytes() * 128 == sum(t.nbytes for g in held.groups.values() for t in g.tensors)


def test_a_step_reads_as_far_as_its_own_adapters():
    held = stacks()
    held.reserve(512)
    for uid, start, names in (("qv@1", 0, [Q]), ("o@1", 64, [O]), ("head@1", 192, ["lm_head"]), ("far@1", 320, [Q])):
        held.load(Slot(uid, start, 8), adapter(8, 1.0, *names), start + 8)
    held.load(Slot("tower@1", 8, 8), HostAdapter({}, {}, 8, 0), 16)
    reach = held.reach
    assert reach([{}, {}]) is None
    assert reach([{"tower@1": 1.0}, {}]) is None
    assert reach([{}, {"qv@1": 1.0}]) == Reach(64, QUERY_VALUE)
    assert reach([{"qv@1": 1.0, "o@1": 0.5}]) == Reach(128, LAYERS)
    assert reach([{"head@1": 1.0}]) == Reach(256, frozenset({"lm_head"}))
    assert reach([{"far@1": 1.0}, {"head@1": 1.0}]) == Reach(512, QUERY_VALUE | {"lm_head"})
