"""Limits and choices of the engine. No torch."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class EngineConfig:
    """See `Settings` for the meaning and unit of each field."""

    max_resident: int
    max_batch: int
    max_queue: int
    step_tokens: int
    max_context: int
    host_cache_bytes: int
    encoder_cache_bytes: int
    decoder: Literal["auto", "fused", "modules"] = "auto"
