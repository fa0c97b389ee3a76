"""From an adapter's name in a request to its columns on the GPU: disk → host memory → slot."""

import logging
import time

from app.engine.host_cache import HostCache
from app.engine.request import Sequence
from app.engine.runner import Runner
from app.engine.scheduler import Claim
from app.engine.slots import SlotTable
from app.errors import AdapterNotFound, OvertoneError
from app.registry.registry import Adapter

log = logging.getLogger(__name__)


class Residency:
    """Slots held by sequences. Called on the engine's thread only."""

    def __init__(self, slots: SlotTable, host: HostCache, runner: Runner) -> None:
        self.slots = slots
        self.host = host
        self.cold_loads = 0
        self._runner = runner

    def claim(self, sequence: Sequence) -> Claim:
        """Hold a slot for every adapter of a sequence, or none at all.

        Raises OvertoneError when an adapter's weights can no longer be read.
        """
        if sequence.slots_held or sequence.alone:
            return Claim.READY
        adapters = [share.adapter for share in sequence.request.shares]
        at_hand = [self._at_hand(adapter) for adapter in adapters]  # all begin to load at once
        if not all(at_hand):
            sequence.timings.activation = 1e3 * (time.monotonic() - sequence.submitted)
            return Claim.LOADING
        held: list[str] = []
        for adapter in adapters:
            if not self._make_resident(adapter):
                for uid in held:
                    self.slots.leave(uid)
                return Claim.FULL
            self.slots.use(adapter.uid)
            held.append(adapter.uid)
        sequence.slots_held = True
        return Claim.READY

    def release(self, sequence: Sequence) -> None:
        """Give back what `claim` held; the adapters stay resident until their slots are wanted."""
        if sequence.slots_held:
            sequence.slots_held = False
            for share in sequence.request.shares:
                self.slots.leave(share.adapter.uid)

    def free(self, name: str | None) -> list[str]:
        """Free the slots of one adapter, or of all, that no sequence uses; their uids."""
        idle = [slot for slot in self.slots.idle() if name in (None, slot.uid.partition("@")[0])]
        for slot in idle:
            self._runner.clear(self.slots.evict(slot.uid))
        return [slot.uid for slot in idle]

    def _at_hand(self, adapter: Adapter) -> bool:
        """Resident or in host memory; otherwise its reading has begun."""
        if self.slots.get(adapter.uid):
            return True
        try:
            return self.host.get(adapter) is not None
        except OvertoneError:
            raise
        except Exception as error:
            log.exception("adapter %s could not be read", adapter.uid)
            raise AdapterNotFound(adapter.name) from error

    def _make_resident(self, adapter: Adapter) -> bool:
        """Copy an adapter into a slot unless it has one; False while no slot can be had."""
        if self.slots.get(adapter.uid):
            return True
        weights = self.host.get(adapter)
        placed = self.slots.place(adapter.uid, weights.rank) if weights else None
        if weights is None or placed is None:
            return False
        slot, evicted = placed
        for victim in evicted:
            self._runner.clear(victim)
        self._runner.load(slot, weights, self.slots.capacity)
        self.cold_loads += 1
        return True
