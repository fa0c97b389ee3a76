"""From an adapter's name in a request to its columns on the GPU: disk → host memory → slot."""

import itertools
import logging
import time
from collections.abc import Iterator, Mapping

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
RETRY_GROWTH_S = 60.0  # after which memory for more columns may have become free


class Residency:
    """Slots held by sequences. Called on the engine's thread only."""

    def __init__(self, slots: SlotTable, host: HostCache, runner: Runner) -> None:
        self.slots = slots
        self.host = host
        self.cold_loads = 0
        self._runner = runner
        self._loads: dict[str, Iterator[None]] = {}  # by uid: slots in which not all of an adapter lies yet
        self._reserved: dict[str, list[str]] = {}  # by request: slots it holds until all of its adapters are there
        self._failed: dict[str, Exception] = {}  # by uid: loads that failed on the way
        self._limit: int | None = None  # columns that must do, since there is no memory for more …
        self._limited_until = 0.0  # … and until when nobody asks for more
        self._gathered: dict[str, dict[str, HostAdapter]] = {}

    def claim(self, sequence: Sequence) -> Claim:
        """Hold a slot for every adapter of a sequence, or none at all.

        Raises OvertoneError when an adapter's weights can no longer be read, or pins leave it no slot.
        """
        if sequence.slots_held or sequence.alone:
            return Claim.READY
        if sequence.request.id in self._reserved:
            return self._take_reserved(sequence)
        adapters = [share.adapter for share in sequence.request.shares]
        self._refuse_if_pins_leave_no_room(adapters)
        waited = sequence.request.id in self._gathered
        weights = self._gather(sequence, adapters)
        if weights is None or waited:
            sequence.timings.activation = 1e3 * (time.monotonic() - sequence.submitted)
        if weights is None:
            return Claim.LOADING
        if time.monotonic() > self._limited_until:
            self._limit = None
        began_empty = not self._evictable()
        answer = self._hold(sequence, adapters, weights)
        if answer is Claim.FULL and self._leave_finished():
            answer = self._hold(sequence, adapters, weights)
        if answer is Claim.FULL and began_empty:
            answer = self._hold_with_more(sequence, adapters, weights)
        if answer is not Claim.FULL:
            self._gathered.pop(sequence.request.id, None)
        elif answer is Claim.FULL and self._limit is not None and not any(slot.users for slot in self.slots.slots):
            self._free_unpinned()  # nobody will leave: what is there lies in the way of what is wanted
        return answer

    def advance(self) -> bool:
        """Copy a piece of the adapter that has been on its way for longest; False when none is."""
        if not self._loads:
            return False
        uid, pieces = next(iter(self._loads.items()))
        try:
            next(pieces)
        except StopIteration:
            self._arrived(uid)
        except Exception as error:
            self._arrived(uid)
            for request in [request for request, uids in self._reserved.items() if uid in uids]:
                self._leave_reserved(request)
            self._runner.clear(self.slots.evict(uid))
            self._failed[uid] = error
        return True

    def _arrived(self, uid: str) -> None:
        del self._loads[uid]
        self.slots.leave(uid)

    def _take_reserved(self, sequence: Sequence) -> Claim:
        """Use what was reserved, once all of it is there."""
        request = sequence.request.id
        if any(uid in self._loads for uid in self._reserved[request]):
            sequence.timings.activation = 1e3 * (time.monotonic() - sequence.submitted)
            return Claim.LOADING
        del self._reserved[request]
        sequence.slots_held = True
        return Claim.READY

    def _leave_reserved(self, request: str) -> None:
        for uid in self._reserved.pop(request, ()):
            self.slots.leave(uid)

    def _leave_finished(self) -> bool:
        """Give up reservations whose adapters are all there; whether there were any.

        Who reserved waits behind the request that finds no slot, or it would run already; were it to keep them, both
        would wait for ever. Its adapters stay resident until their slots are wanted.
        """
        finished = [request for request, uids in self._reserved.items() if not self._loads.keys() & set(uids)]
        for request in finished:
            self._leave_reserved(request)
        return bool(finished)

    def release(self, sequence: Sequence) -> None:
        """Give back what `claim` held; the adapters stay resident until their slots are wanted."""
        self._gathered.pop(sequence.request.id, None)
        self._leave_reserved(sequence.request.id)
        for share in sequence.request.shares:
            self._failed.pop(share.adapter.uid, None)  # nobody waits for it, or who does tries anew
        if sequence.slots_held:
            sequence.slots_held = False
            for share in sequence.request.shares:
                self.slots.leave(share.adapter.uid)

    def _hold(self, sequence: Sequence, adapters: list[Adapter], weights: Mapping[str, HostAdapter]) -> Claim:
        """Use a slot of each adapter, or none. LOADING reserves them: all are placed, and not all are loaded.

        Only who has all slots reserves any, so that nobody waits for a slot of somebody who waits.
        """
        held: list[str] = []
        answer: Claim | None = None
        try:
            found = []
            for adapter in adapters:
                found.append(self._make_resident(adapter, weights))
                if found[-1] is Claim.FULL:
                    return Claim.FULL
                self.slots.use(adapter.uid)
                held.append(adapter.uid)
            answer = Claim.LOADING if Claim.LOADING in found else Claim.READY
        finally:
            if answer is None:
                for uid in held:
                    self.slots.leave(uid)
        if answer is Claim.LOADING:
            self._reserved[sequence.request.id] = held
        sequence.slots_held = answer is Claim.READY
        return answer

    def _hold_with_more(self, sequence: Sequence, adapters: list[Adapter], weights: Mapping[str, HostAdapter]) -> Claim:
        """As `_hold`, where the columns that there are do not do for this request alone: it needs more of them.

        Raises OutOfMemory when there are none; waiting would not help.
        """
        if self._limit is None:
            return Claim.FULL  # it waits for a slot, not for columns
        self._limit = None
        answer = self._hold(sequence, adapters, weights)
        if answer is Claim.FULL and self._limit is not None:
            raise OutOfMemory
        return answer

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

    def _make_resident(self, adapter: Adapter, weights: Mapping[str, HostAdapter]) -> Claim:
        """Begin to copy an adapter into a slot unless it has one; FULL while no slot can be had.

        Where there is no memory for more columns, those of idle adapters must do, from then on.
        """
        if error := self._failed.pop(adapter.uid, None):
            raise error
        if adapter.uid in self._loads:
            return Claim.LOADING
        if self.slots.get(adapter.uid):
            return Claim.READY
        own = weights.get(adapter.uid)  # absent when its slot went to another adapter of this mix just now
        if own is None:
            return Claim.FULL
        try:
            return self._load(adapter.uid, own)
        except Exception as error:
            if not is_out_of_memory(error) or self._limit is not None:
                raise
        self._limited_until = time.monotonic() + RETRY_GROWTH_S
        self._limit = self._runner.columns  # the exception is over, and with it what the attempt had allocated
        log.warning("no memory for more than %d adapter columns: adapters take turns in them", self._limit)
        return self._load(adapter.uid, own)

    def _load(self, uid: str, own: HostAdapter) -> Claim:
        """Begin to copy an adapter into a new slot: READY when that is done, FULL while no slot can be had."""
        placed = self.slots.place(uid, own.rank, self._limit)
        if placed is None:
            return Claim.FULL
        slot, evicted = placed
        for victim in evicted:
            self._runner.clear(victim)
        try:
            pieces = self._runner.load(slot, own, self.slots.capacity)
            more = any(True for _ in itertools.islice(pieces, 1))
        except Exception:  # half an adapter must not stay behind as if it were whole
            self._runner.clear(self.slots.evict(slot.uid))
            raise
        self.cold_loads += 1
        if not more:
            return Claim.READY
        self.slots.use(uid)  # until all of it is there nobody may take the slot
        self._loads[uid] = pieces
        return Claim.LOADING
