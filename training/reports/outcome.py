"""What a run returns: the result of its method, and the version published."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from app.registry.adapter import Adapter


@dataclass(frozen=True)
class Trained:
    """The result of a method: a folder with its files, figures, loss curves and facts for people."""

    folder: Path
    metrics: dict[str, Any]
    train: Sequence[tuple[float, float]]
    held_out: Sequence[tuple[float, float]]
    facts: dict[str, Any]

    @property
    def promoted(self) -> bool:
        """False where the version that answers now gave better answers, and stays."""
        return bool(self.metrics.get("comparison", {}).get("promoted", True))


@dataclass(frozen=True)
class Outcome:
    """``adapter``: the version published."""

    adapter: Adapter
    trained: Trained

    def told(self) -> dict[str, Any]:
        """As JSON has it."""
        named = {"name": self.adapter.name, "version": self.adapter.version}
        if not self.trained.promoted:
            named["promoted"] = False
        return {"adapter": named, "metrics": self.trained.metrics, "facts": self.trained.facts}
