"""From an adapter's name in a request to its columns on the GPU: disk → host memory → slot."""

import logging
import time
from collections.abc import Mapping

from safetensors import SafetensorError

from app.engine.host_cache import HostCache
from app.engine.lora import HostAdapter
from app.engine.request import Sequence
from app.engine.runner import Runner
from app.engine.scheduler import Claim
from app.engine.slots import Slot, SlotTable
from app.errors import AdapterNotFound, Conflict, OutOfMemory
from app.model.device_memory import is_out_of_memory
from app.registry.registry import Adapter

log = logging.getLogger(__name__)


class Residency:
    """Slots held by sequences. Called on the engine's thread only."""

    def __init__(self, slots: SlotTable, host: HostCache, runner: Runner) -> None:
        self.slots = slots
        self.host = host
        self.cold_loads = 0
        self._runner = runner
        self._limit: int | None = None  # columns that must do, since there is no memory for more
        self._gathered: dict[str, dict[str, HostAdapter]] = {}

    def claim(self, sequence: Sequence) -> Claim:
        """Hold a slot for every adapter of a sequence, or none at all.

        Raises OvertoneError when an adapter's weights can no longer be read, or pins leave it no slot.
        """
        if sequence.slots_held or sequence.alone:
            return Claim.READY
        adapters = [share.adapter for share in sequence.request.shares]
        self._refuse_if_pins_leave_no_room(adapters)
        waited = sequence.request.id in self._gathered
        weights = self._gather(sequence, adapters)
        if weights is None or waited:
            sequence.timings.activation = 1e3 * (time.monotonic() - sequence.submitted)
        if weights is None:
            return Claim.LOADING
        began_empty = not self._evictable()
        if self._hold(sequence, adapters, weights) or (
            began_empty and self._hold_with_more(sequence, adapters, weights)
        ):
            self._gathered.pop(sequence.request.id, None)
            return Claim.READY
        if self._limit is not None and not any(slot.users for slot in self.slots.slots):
            self._free_unpinned()  # nobody will leave: what is there lies in the way of what is wanted
        return Claim.FULL

    def release(self, sequence: Sequence) -> None:
        """Give back what `claim` held; the adapters stay resident until their slots are wanted."""
        self._gathered.pop(sequence.request.id, None)
        if sequence.slots_held:
            sequence.slots_held = False
            for share in sequence.request.shares:
                self.slots.leave(share.adapter.uid)

    def _hold(self, sequence: Sequence, adapters: list[Adapter], weights: Mapping[str, HostAdapter]) -> bool:
        """Use a slot of each adapter, or none; False while not all can be had."""
        held: list[str] = []
        try:
            for adapter in adapters:
                if not self._make_resident(adapter, weights):
                    return False
                self.slots.use(adapter.uid)
                held.append(adapter.uid)
            sequence.slots_held = True
        finally:
            if not sequence.slots_held:
                for uid in held:
                    self.slots.leave(uid)
        return sequence.slots_held

    def _hold_with_more(self, sequence: Sequence, adapters: list[Adapter], weights: Mapping[str, HostAdapter]) -> bool:
        """As `_hold`, where the columns that there are do not do for this request alone: it needs more of them.

        Raises OutOfMemory when there are none; waiting would not help.
        """
        if self._limit is None:
            return False  # it waits for a slot, not for columns
        self._limit = None
        if self._hold(sequence, adapters, weights):
            return True
        if self._limit is None:
            return False
        raise OutOfMemory

    def free(self, name: str | None) -> list[str]:
        """Free the slots of one adapter, or of all, that no sequence uses; their uids."""
        idle = [slot for slot in self.slots.idle() if name in (None, slot.uid.partition("@")[0])]
        for slot in idle:
            self._runner.clear(self.slots.evict(slot.uid))
        return [slot.uid for slot in idle]

    def _gather(self, sequence: Sequence, adapters: list[Adapter]) -> dict[str, HostAdapter] | None:
        """Weights of the adapters that are not resident; None while some are still being read.

        A mix keeps what has been read, so that it completes even where the host cache holds less.
        """
        gathered = self._gathered.setdefault(sequence.request.id, {})
        complete = True
        for adapter in adapters:
            if adapter.uid in gathered or self.slots.get(adapter.uid):
                continue
            weights = self._read(adapter)
            if weights is None:
                complete = False
            else:
                gathered[adapter.uid] = weights
        return gathered if complete else None

    def _refuse_if_pins_leave_no_room(self, adapters: list[Adapter]) -> None:
        wanted = {adapter.uid for adapter in adapters}
        pinned = [slot for slot in self.slots.slots if self.slots.is_pinned(slot) and slot.uid not in wanted]
        if len(wanted) > self.slots.max_resident - len(pinned):
            raise Conflict(
                f"{len(pinned)} pinned adapters leave {self.slots.max_resident - len(pinned)} of "
                f"{self.slots.max_resident} slots; unpin one, or raise OVERTONE_MAX_RESIDENT."
            )

    def _read(self, adapter: Adapter) -> HostAdapter | None:
        try:
            return self.host.get(adapter)
        except (OSError, SafetensorError) as error:
            log.exception("adapter %s could not be read", adapter.uid)
            raise AdapterNotFound(adapter.name) from error

    def _free_unpinned(self) -> None:
        for slot in self._evictable():
            self._runner.clear(self.slots.evict(slot.uid))

    def _evictable(self) -> list[Slot]:
        return [slot for slot in self.slots.slots if slot.users or not self.slots.is_pinned(slot)]

    def _make_resident(self, adapter: Adapter, weights: Mapping[str, HostAdapter]) -> bool:
        """Copy an adapter into a slot unless it has one; False while no slot can be had.

        Where there is no memory for more columns, those of idle adapters must do, from then on.
        """
        if self.slots.get(adapter.uid):
            return True
        own = weights.get(adapter.uid)  # absent when its slot went to another adapter of this mix just now
        if own is None:
            return False
        try:
            return self._load(adapter.uid, own)
        except Exception as error:
            if not is_out_of_memory(error) or self._limit is not None:
                raise
        self._limit = self._runner.columns  # the exception is over, and with it what the attempt had allocated
        log.warning("no memory for more than %d adapter columns: adapters take turns in them", self._limit)
        return self._load(adapter.uid, own)

    def _load(self, uid: str, own: HostAdapter) -> bool:
        """Copy an adapter into a new slot; False while none can be had."""
        placed = self.slots.place(uid, own.rank, self._limit)
        if placed is None:
            return False
        slot, evicted = placed
        for victim in evicted:
            self._runner.clear(victim)
        try:
            self._runner.load(slot, own, self.slots.capacity)
        except Exception:  # half an adapter must not stay behind as if it were whole
            self._runner.clear(self.slots.evict(slot.uid))
            raise
        self.cold_loads += 1
        return True
