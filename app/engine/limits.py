"""What the engine may take. No torch."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class EngineLimits:
    """See `Settings` for the meaning and units of each."""

    max_resident: int
    max_batch: int
    max_queue: int
    step_tokens: int
    max_context: int
    host_cache_bytes: int
    encoder_cache_bytes: int
    decoder: Literal["auto", "fused", "modules"] = "auto"
    weights: Literal["full", "float8"] = "full"
