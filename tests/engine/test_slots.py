from hypothesis import given
from hypothesis import strategies as st

from app.engine.lora.slots import SlotTable


def resident(table: SlotTable) -> set[str]:
    return {slot.uid for slot in table.slots}


def test_the_least_recently_used_gives_way():
    table = SlotTable(2)
    for uid in ("a@1", "b@1"):
        table.place(uid, 8)
        table.use(uid)
        table.release(uid)
    table.use("a@1")
    table.release("a@1")
    table.place("c@1", 8)
    assert resident(table) == {"a@1", "c@1"}
    assert table.evictions == 1


def test_pinned_and_used_adapters_stay():
    table = SlotTable(2)
    table.place("pinned@3", 8)
    table.pinned.add("pinned")
    table.place("used@1", 8)
    table.use("used@1")
    assert table.place("c@1", 8) is None
    table.release("used@1")
    assert table.place("c@1", 8) is not None
    assert resident(table) == {"pinned@3", "c@1"}


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(1, 64)), max_size=60))
def test_columns_never_overlap_and_stay_within_the_capacity(placements):
    table = SlotTable(4)
    for name, rank in placements:
        uid = f"{name}@1"
        if table.get(uid) is None:
            placed = table.place(uid, rank)
            assert placed is not None
            assert placed[0].width >= rank
        table.use(uid)
        table.release(uid)
        taken = [column for slot in table.slots for column in range(slot.start, slot.stop)]
        assert len(taken) == len(set(taken))
        assert max(taken) < table.capacity
        assert len(table.slots) <= 4
