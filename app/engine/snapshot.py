"""State of the engine for readers on other threads. No torch."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from app.engine.encoder.audio_encoder import AudioEncoder
    from app.engine.lora.manager import LoRAManager
    from app.engine.scheduler import Scheduler


@dataclass(frozen=True)
class EngineSnapshot:
    """State between two steps. The engine's thread replaces it after each change and never modifies it.

    ``resident``: uids (name@version) of the adapters that hold a slot, of ``max_resident`` slots. ``pinned``: names.
    ``in_host_memory``: uids in the host cache. ``running``, ``waiting``: sequences. ``blocks``, ``free_blocks``: of the
    KV cache, each of ``block_size`` tokens. The remaining fields count since start.
    """

    resident: tuple[str, ...] = ()
    max_resident: int = 0
    pinned: frozenset[str] = frozenset()
    in_host_memory: frozenset[str] = frozenset()
    running: int = 0
    waiting: int = 0
    blocks: int = 0
    free_blocks: int = 0
    block_size: int = 0
    preemptions: int = 0
    evictions: int = 0
    cold_loads: int = 0
    encoder_hits: int = 0
    encoder_misses: int = 0

    @property
    def used_blocks(self) -> int:
        """Blocks that sequences hold."""
        return self.blocks - self.free_blocks

    @classmethod
    def of(cls, scheduler: "Scheduler", manager: "LoRAManager", encoder: "AudioEncoder") -> "EngineSnapshot":
        """The present state. Called on the engine's thread only."""
        slots, pool = manager.slots, scheduler.pool
        return cls(
            resident=slots.uids,
            max_resident=slots.max_resident,
            pinned=frozenset(slots.pinned),
            in_host_memory=manager.host.uids,
            running=len(scheduler.running),
            waiting=len(scheduler.waiting),
            blocks=pool.blocks,
            free_blocks=pool.available,
            block_size=pool.block_size,
            preemptions=scheduler.preemptions,
            evictions=slots.evictions,
            cold_loads=manager.cold_loads,
            encoder_hits=encoder.hits,
            encoder_misses=encoder.misses,
        )
