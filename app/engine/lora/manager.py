"""The way of an adapter onto the device: disk → host memory → slot."""

import itertools
import logging
import time
from collections.abc import Iterator, Mapping
from typing import Protocol

from safetensors import SafetensorError

from app.engine.lora.host_cache import HostCache
from app.engine.lora.layers import HostAdapter
from app.engine.lora.peft_fallback import PeftFallback
from app.engine.lora.slots import Slot, SlotTable, columns_of
from app.engine.scheduler import Admission
from app.engine.sequence import Sequence
from app.errors import AdapterNotFound, BadRequest, Conflict, OutOfMemory
from app.models.device_memory import is_out_of_memory
from app.registry.adapter import Adapter

log = logging.getLogger(__name__)
RETRY_GROWTH_S = 60.0  # after which more columns are tried again: memory may have become free


class AdapterColumns(Protocol):
    """Adapter weights on the device, as far as the manager needs them. `Runner` is one."""

    @property
    def columns(self) -> int:
        """Columns that need no further memory."""

    def load(self, slot: Slot, adapter: HostAdapter, capacity: int) -> Iterator[None]:
        """Copy an adapter into its slot; it is complete when the iterator has ended.

        ``capacity``: columns up to the end of the last slot.
        """

    def clear(self, slot: Slot) -> None:
        """Zero the columns of a slot."""


class LoRAManager:
    """Loads adapters into slots and holds the slots for sequences. Called on the engine's thread only.

    ``fallback`` serves the adapters that need no slot. ``most_columns``: that the plan of memory has; None without a
    limit.
    """

    def __init__(
        self,
        slots: SlotTable,
        host: HostCache,
        device: AdapterColumns,
        fallback: PeftFallback,
        most_columns: int | None = None,
    ) -> None:
        self.slots = slots
        self.host = host
        self.cold_loads = 0
        self._device = device
        self._fallback = fallback
        self._most_columns = most_columns
        self._loads: dict[str, Iterator[None]] = {}  # by uid: slots whose adapter is not complete yet
        self._reserved: dict[str, list[str]] = {}  # by request: uids of its slots until all of them are complete
        self._failed: dict[str, Exception] = {}  # by uid: loads that failed after `acquire` began them
        self._limit: int | None = None  # columns, when there is no memory for more …
        self._limited_until = 0.0  # … and when more are tried again
        self._gathered: dict[str, dict[str, HostAdapter]] = {}  # by request, then by uid: weights in host memory

    def acquire(self, sequence: Sequence) -> Admission:
        """Hold a slot for every adapter of a sequence, or none at all, and load the adapters that are not resident.

        Raises OvertoneError when an adapter's weights can no longer be read, or pins leave it no slot, and the error of
        a load that failed.
        """
        if sequence.alone:
            return self._acquire_alone(sequence)
        if sequence.slots_held:
            return Admission.READY
        if sequence.request.id in self._reserved:
            return self._take_reserved(sequence)
        adapters = [one.adapter for one in sequence.request.lora_weights]
        self._refuse_if_pins_leave_no_slot(adapters)
        self._refuse_wider_than_planned(adapters)
        waited = sequence.request.id in self._gathered
        weights = self._gather(sequence, adapters)
        if weights is None or waited:
            sequence.timings.activation = 1e3 * (time.monotonic() - sequence.submitted)
        if weights is None:
            return Admission.LOADING
        if time.monotonic() > self._limited_until:
            self._limit = None
        began_empty = not self._evictable()
        admission = self._hold(sequence, adapters, weights)
        if admission is Admission.FULL and self._cancel_complete_reservations():
            admission = self._hold(sequence, adapters, weights)
        if admission is Admission.FULL and began_empty:
            admission = self._hold_with_more(sequence, adapters, weights)
        if admission is not Admission.FULL:
            self._gathered.pop(sequence.request.id, None)
        elif self._within is not None and not any(slot.users for slot in self.slots.slots):
            self._evict_unpinned()  # no sequence will release a slot, and the idle ones fragment the columns
        return admission

    def _acquire_alone(self, sequence: Sequence) -> Admission:
        """As `acquire`, for an adapter that takes no slot. It never blocks the queue: others may overtake it."""
        adapter = sequence.request.lora_weights[0].adapter
        try:
            ready = self._fallback.acquire(sequence, self.host.read)
        except (OSError, SafetensorError) as error:
            log.exception("adapter %s could not be read", adapter.uid)
            raise AdapterNotFound(adapter.name) from error
        if not ready or sequence.timings.activation:
            sequence.timings.activation = 1e3 * (time.monotonic() - sequence.submitted)
        return Admission.READY if ready else Admission.LOADING

    def advance(self) -> bool:
        """Copy a piece of the adapter whose load began first; False when none is being loaded."""
        if not self._loads:
            return False
        uid, pieces = next(iter(self._loads.items()))
        try:
            next(pieces)
        except StopIteration:
            self._end_load(uid)
        except Exception as error:
            self._end_load(uid)
            for request in [request for request, uids in self._reserved.items() if uid in uids]:
                self._cancel_reservation(request)
            self._evict(uid)
            self._failed[uid] = error
        return True

    def _end_load(self, uid: str) -> None:
        del self._loads[uid]
        self.slots.release(uid)

    def _take_reserved(self, sequence: Sequence) -> Admission:
        """Use the reserved slots, once all of them are complete."""
        request = sequence.request.id
        if any(uid in self._loads for uid in self._reserved[request]):
            sequence.timings.activation = 1e3 * (time.monotonic() - sequence.submitted)
            return Admission.LOADING
        del self._reserved[request]
        sequence.slots_held = True
        return Admission.READY

    def _cancel_reservation(self, request: str) -> None:
        for uid in self._reserved.pop(request, ()):
            self.slots.release(uid)

    def _cancel_complete_reservations(self) -> bool:
        """Cancel the reservations whose adapters are all complete; False when there were none.

        Their requests wait behind the one that finds no slot, or they would run already. If they kept their slots, both
        would wait for ever. Their adapters stay resident until the slots are needed.
        """
        finished = [request for request, uids in self._reserved.items() if not self._loads.keys() & set(uids)]
        for request in finished:
            self._cancel_reservation(request)
        return bool(finished)

    def release(self, sequence: Sequence) -> None:
        """Release the slots that `acquire` held; the adapters stay resident until their slots are needed."""
        self._gathered.pop(sequence.request.id, None)
        self._cancel_reservation(sequence.request.id)
        for one in sequence.request.lora_weights:
            self._failed.pop(one.adapter.uid, None)  # other sequences that wait for it try anew
        if sequence.slots_held:
            sequence.slots_held = False
            for one in sequence.request.lora_weights:
                self.slots.release(one.adapter.uid)

    def _hold(self, sequence: Sequence, adapters: list[Adapter], weights: Mapping[str, HostAdapter]) -> Admission:
        """Use a slot of each adapter, or none. LOADING reserves the slots: all are placed, and some are not complete.

        Only a sequence that has all of its slots reserves any, so that no sequence waits for the slot of another that
        waits.
        """
        held: list[str] = []
        admission: Admission | None = None
        try:
            found = []
            for adapter in adapters:
                found.append(self._make_resident(adapter, weights))
                if found[-1] is Admission.FULL:
                    return Admission.FULL
                self.slots.use(adapter.uid)
                held.append(adapter.uid)
            admission = Admission.LOADING if Admission.LOADING in found else Admission.READY
        finally:
            if admission is None:
                for uid in held:
                    self.slots.release(uid)
        if admission is Admission.LOADING:
            self._reserved[sequence.request.id] = held
        sequence.slots_held = admission is Admission.READY
        return admission

    def _hold_with_more(
        self, sequence: Sequence, adapters: list[Adapter], weights: Mapping[str, HostAdapter]
    ) -> Admission:
        """As `_hold`, with more columns than the limit, which this request exceeds even alone.

        Raises OutOfMemory when there is no memory for them, and Conflict when pinned adapters have them; waiting would
        not help.
        """
        if self._limit is None and self._most_columns is not None and self.slots.pinned:
            raise Conflict(
                f"Pinned adapters leave too few of the {self._most_columns} adapter columns that this server's memory "
                "has room for; unpin one."
            )
        if self._limit is None:
            return Admission.FULL  # slots are missing, not columns
        self._limit = None
        admission = self._hold(sequence, adapters, weights)
        if admission is Admission.FULL and self._limit is not None:
            raise OutOfMemory
        return admission

    def pin(self, name: str, pinned: bool) -> None:
        """Set or clear a pin. Raises Conflict unless one slot stays unpinned, for all other adapters."""
        slots = self.slots
        if not pinned:
            slots.pinned.discard(name)
        elif len(slots.pinned | {name}) >= slots.max_resident:
            raise Conflict(
                f"{len(slots.pinned)} of {slots.max_resident} slots are pinned and one must stay free; unpin another, "
                "or raise OVERTONE_MAX_RESIDENT."
            )
        else:
            slots.pinned.add(name)

    def evict_idle(self, name: str | None) -> list[str]:
        """Evict the adapter of one name, or all, unless a sequence uses them; returns the uids."""
        idle = [slot for slot in self.slots.idle() if name in (None, slot.uid.partition("@")[0])]
        for slot in idle:
            self._evict(slot.uid)
        return [slot.uid for slot in idle]

    def _gather(self, sequence: Sequence, adapters: list[Adapter]) -> dict[str, HostAdapter] | None:
        """Weights of the adapters that are not resident; None while some are still being read.

        A mix keeps the weights that have been read, so that it completes even where the host cache holds less.
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

    def _refuse_if_pins_leave_no_slot(self, adapters: list[Adapter]) -> None:
        wanted = {adapter.uid for adapter in adapters}
        pinned = [slot for slot in self.slots.slots if self.slots.is_pinned(slot) and slot.uid not in wanted]
        if len(wanted) > self.slots.max_resident - len(pinned):
            raise Conflict(
                f"{len(pinned)} pinned adapters leave {self.slots.max_resident - len(pinned)} of "
                f"{self.slots.max_resident} slots; unpin one, or raise OVERTONE_MAX_RESIDENT."
            )

    def _refuse_wider_than_planned(self, adapters: list[Adapter]) -> None:
        """Raises BadRequest for adapters that take more columns together than the plan of memory has."""
        most = self._most_columns
        wanted = sum(columns_of(adapter.report.rank) for adapter in adapters)
        if most is not None and wanted > most:
            names = " and ".join(repr(adapter.name) for adapter in adapters)
            raise BadRequest(
                f"Rank {sum(one.report.rank for one in adapters)} of {names} takes {wanted} adapter columns, and "
                f"this server's memory has room for {most}. The operator can lower OVERTONE_KV_GB, choose smaller "
                "OVERTONE_WEIGHTS or take a card with more memory; `overtone plan` shows what each has room for."
            )

    @property
    def _within(self) -> int | None:
        """Columns that slots must lie in; None without a limit."""
        limits = [limit for limit in (self._limit, self._most_columns) if limit is not None]
        return min(limits, default=None)

    def _read(self, adapter: Adapter) -> HostAdapter | None:
        try:
            return self.host.get(adapter)
        except (OSError, SafetensorError) as error:
            log.exception("adapter %s could not be read", adapter.uid)
            raise AdapterNotFound(adapter.name) from error

    def _evict_unpinned(self) -> None:
        for slot in self._evictable():
            self._evict(slot.uid)

    def _evict(self, uid: str) -> None:
        self._device.clear(self.slots.evict(uid))

    def _evictable(self) -> list[Slot]:
        return [slot for slot in self.slots.slots if slot.users or not self.slots.is_pinned(slot)]

    def _make_resident(self, adapter: Adapter, weights: Mapping[str, HostAdapter]) -> Admission:
        """Begin to load an adapter into a slot unless it has one; FULL while no slot is free.

        Where there is no memory for more columns, adapters take turns in the present ones from then on.
        """
        if error := self._failed.pop(adapter.uid, None):
            raise error
        if adapter.uid in self._loads:
            return Admission.LOADING
        if self.slots.get(adapter.uid):
            return Admission.READY
        own = weights.get(adapter.uid)  # absent when another adapter of this mix has just taken its slot
        if own is None:
            return Admission.FULL
        try:
            return self._load(adapter.uid, own)
        except Exception as error:
            if not is_out_of_memory(error) or self._limit is not None:
                raise
        self._limited_until = time.monotonic() + RETRY_GROWTH_S
        self._limit = self._device.columns  # the exception has ended, and so the attempt's tensors are free
        log.warning("no memory for more than %d adapter columns: adapters take turns in them", self._limit)
        return self._load(adapter.uid, own)

    def _load(self, uid: str, own: HostAdapter) -> Admission:
        """Begin to load an adapter into a new slot: READY when that is complete, FULL while no slot is free."""
        placed = self.slots.place(uid, own.rank, self._within)
        if placed is None:
            return Admission.FULL
        slot, evicted = placed
        for victim in evicted:
            self._device.clear(victim)
        try:
            pieces = self._device.load(slot, own, self.slots.capacity)
            more = any(True for _ in itertools.islice(pieces, 1))
        except Exception:  # an incomplete adapter must not count as resident
            self._evict(slot.uid)
            raise
        self.cold_loads += 1
        if not more:
            return Admission.READY
        self.slots.use(uid)  # an incomplete adapter is not evicted
        self._loads[uid] = pieces
        return Admission.LOADING
