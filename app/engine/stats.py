"""Counters of the engine, read by `/metrics` and the page."""

from dataclasses import dataclass


@dataclass
class EngineStats:
    """Counts since start. Any thread may read them; `rejected` is written under the engine's lock or by its callers."""

    steps: int = 0
    step_seconds: float = 0.0
    last_batch: int = 0
    generated_tokens: int = 0
    finished: int = 0
    failed: int = 0
    rejected: int = 0

    def step(self, batch: int, seconds: float) -> None:
        """Count one step of ``batch`` sequences."""
        self.steps += 1
        self.step_seconds += seconds
        self.last_batch = batch
