"""Slots: the resident adapters, and the columns of each in the side-by-side LoRA matrices. No torch."""

from dataclasses import dataclass

ALIGNMENT = 8  # columns; tensor cores want such shapes
COLUMNS = 64  # the smallest allocation; larger ones are multiples of it
PLANNED_RANK = 16  # that memory is planned with, per resident adapter


def rounded(columns: int) -> int:
    """Columns that are allocated when ``columns`` are needed."""
    return -(-columns // COLUMNS) * COLUMNS


def columns_of(rank: int) -> int:
    """Columns of a slot for an adapter of this rank."""
    return -(-max(rank, 1) // ALIGNMENT) * ALIGNMENT


def planned_columns(residents: int) -> int:
    """Columns that memory is planned for, with ``residents`` adapters."""
    return rounded(residents * PLANNED_RANK)


@dataclass
class Slot:
    """The columns `start … start + width` of one resident adapter (``uid`` is name@version)."""

    uid: str
    start: int
    width: int
    users: int = 0
    last_used: int = 0

    @property
    def stop(self) -> int:
        return self.start + self.width


class SlotTable:
    """Slots by uid. The least recently used adapter is evicted first; those pinned or in use never are."""

    def __init__(self, max_resident: int) -> None:
        self.max_resident = max_resident
        self.pinned: set[str] = set()
        self.evictions = 0
        self._slots: dict[str, Slot] = {}
        self._clock = 0

    @property
    def capacity(self) -> int:
        """Columns up to the end of the last slot."""
        return max((slot.stop for slot in self._slots.values()), default=0)

    @property
    def slots(self) -> list[Slot]:
        return list(self._slots.values())

    @property
    def uids(self) -> tuple[str, ...]:
        return tuple(self._slots)

    def get(self, uid: str) -> Slot | None:
        return self._slots.get(uid)

    def use(self, uid: str) -> Slot:
        """Count one more user of a resident adapter, and return its slot."""
        slot = self._slots[uid]
        self._clock += 1
        slot.last_used, slot.users = self._clock, slot.users + 1
        return slot

    def release(self, uid: str) -> None:
        """Count one user fewer."""
        self._slots[uid].users -= 1

    def place(self, uid: str, rank: int, within: int | None = None) -> tuple[Slot, list[Slot]] | None:
        """A slot for a new adapter, and the slots evicted for it; None while all others are in use or pinned.

        ``within``: number of columns that the slot must lie in. As many slots are evicted as that takes.
        """
        width = columns_of(rank)
        evicted: list[Slot] = []
        while True:
            start = self._gap(width)
            if len(self._slots) < self.max_resident and (within is None or start + width <= within):
                break
            victim = self._victim()
            if victim is None:
                self._slots |= {slot.uid: slot for slot in evicted}
                return None
            evicted.append(self.evict(victim.uid))
        self.evictions += len(evicted)
        slot = Slot(uid, start, width)
        self._slots[uid] = slot
        return slot, evicted

    def evict(self, uid: str) -> Slot:
        """Remove a slot that has no users, and return it."""
        slot = self._slots[uid]
        assert slot.users == 0, f"{uid} is in use"
        return self._slots.pop(uid)

    def is_pinned(self, slot: Slot) -> bool:
        return slot.uid.partition("@")[0] in self.pinned

    def idle(self) -> list[Slot]:
        """Slots without users."""
        return [slot for slot in self._slots.values() if not slot.users]

    def _victim(self) -> Slot | None:
        candidates = [slot for slot in self.idle() if not self.is_pinned(slot)]
        return min(candidates, key=lambda slot: slot.last_used, default=None)

    def _gap(self, width: int) -> int:
        """First column of the first gap that is wide enough; the end when there is none."""
        start = 0
        for slot in sorted(self._slots.values(), key=lambda slot: slot.start):
            if slot.start - start >= width:
                return start
            start = slot.stop
        return start
