"""Which adapters are resident, and in which columns of the side-by-side LoRA matrices. No torch."""

from dataclasses import dataclass

ALIGNMENT = 8  # columns; keeps the products' shapes friendly to tensor cores
COLUMNS = 64  # the fewest that are allocated, and what their number is rounded up to
PLANNED_RANK = 16  # of a resident adapter, when memory is planned


def rounded(columns: int) -> int:
    """The number of columns allocated for so many."""
    return -(-columns // COLUMNS) * COLUMNS


def planned_columns(residents: int) -> int:
    """The columns for which memory is planned."""
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
    """Least recently used adapters give way; pinned ones and those in use never do."""

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

    def get(self, uid: str) -> Slot | None:
        return self._slots.get(uid)

    def use(self, uid: str) -> Slot:
        """One more sequence reads this resident adapter."""
        slot = self._slots[uid]
        self._clock += 1
        slot.last_used, slot.users = self._clock, slot.users + 1
        return slot

    def leave(self, uid: str) -> None:
        """One sequence fewer reads it."""
        self._slots[uid].users -= 1

    def place(self, uid: str, rank: int, within: int | None = None) -> tuple[Slot, list[Slot]] | None:
        """Columns for a new adapter and the slots evicted for it; None while all are in use or pinned.

        ``within``: the slot must end there, and as many others give way as that takes.
        """
        width = -(-max(rank, 1) // ALIGNMENT) * ALIGNMENT
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
        """Free a slot that nobody uses."""
        slot = self._slots[uid]
        assert slot.users == 0, f"{uid} is in use"
        return self._slots.pop(uid)

    def is_pinned(self, slot: Slot) -> bool:
        return slot.uid.partition("@")[0] in self.pinned

    def idle(self) -> list[Slot]:
        """Slots that no sequence uses."""
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
