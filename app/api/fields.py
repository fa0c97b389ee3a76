"""What requests with many fields have in common: a misspelt one is told, not ignored."""

import secrets
from difflib import get_close_matches
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from app.api.problems import InvalidFields
from app.engine.request import Sampling


class KnownFields(BaseModel):
    """Refuses fields that it does not know; ``hints``: what people write, and what they mean by it."""

    model_config = ConfigDict(extra="forbid")
    hints: ClassVar[dict[str, str]] = {}

    @model_validator(mode="before")
    @classmethod
    def _known_fields(cls, values: Any) -> Any:
        """An unknown field is refused with the nearest known one, rather than ignored."""
        unknown = [name for name in values if name not in cls.model_fields] if isinstance(values, dict) else []
        if unknown:
            raise InvalidFields(" ".join(cls._unknown(name) for name in unknown), unknown)
        return values

    @classmethod
    def _unknown(cls, name: str) -> str:
        near = get_close_matches(name, cls.model_fields, n=1, cutoff=0.5)
        meant = cls.hints.get(name) or (near[0] if near else None)
        return f"Unknown field {name[:80]!r}; " + (
            f"did you mean {meant!r}?" if meant else f"known: {', '.join(cls.model_fields)}."
        )


class SamplingFields(KnownFields):
    """How tokens are chosen."""

    temperature: float = Field(0.0, ge=0, le=5, allow_inf_nan=False, description="0 is greedy")
    top_p: float = Field(1.0, gt=0, le=1, allow_inf_nan=False, description="with a temperature: nucleus; 1 is off")
    top_k: int = Field(0, ge=0, le=1_000_000, description="with a temperature: the k likeliest; 0 is off")
    repetition_penalty: float = Field(1.0, ge=0.1, le=10, allow_inf_nan=False, description="above 1: less repetition")
    seed: int | None = Field(None, ge=0, lt=2**63, description="default: random, told in the answer")
    stop: list[str] = Field([], max_length=8, description="repeatable; the answer ends before any of these")

    @field_validator("stop")
    @classmethod
    def _short_stops(cls, value: list[str]) -> list[str]:
        if any(not 1 <= len(stop) <= 200 for stop in value):
            raise ValueError("each stop string has 1 to 200 characters")
        return value

    def sampled(self, max_new_tokens: int, **more: Any) -> Sampling:
        """As the engine takes it, with a seed in any case; ``more``: what only some requests ask for."""
        seed = secrets.randbits(31) if self.seed is None else self.seed
        return Sampling(
            max_new_tokens,
            self.temperature,
            self.top_p,
            self.top_k,
            self.repetition_penalty,
            seed,
            tuple(self.stop),
            **more,
        )
