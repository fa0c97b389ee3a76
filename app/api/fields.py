"""What requests with many fields have in common: a misspelt one is told, not ignored."""

from difflib import get_close_matches
from typing import Any, ClassVar

from fastapi import Request
from pydantic import BaseModel, ConfigDict, model_validator

from app.api.problems import InvalidFields
from app.errors import BadRequest

FORMS = ("multipart/form-data", "application/x-www-form-urlencoded", "")


class KnownFields(BaseModel):
    """Refuses fields that it does not know; ``hints``: what people write, and what they mean by it."""

    model_config = ConfigDict(extra="forbid")
    hints: ClassVar[dict[str, str]] = {}

    @model_validator(mode="before")
    @classmethod
    def _known_fields(cls, values: Any) -> Any:
        """An unknown field is refused with the nearest known one, rather than ignored."""
        known = {field.alias or name for name, field in cls.model_fields.items()}
        unknown = [name for name in values if name not in known] if isinstance(values, dict) else []
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


async def form_only(request: Request) -> None:
    """The framework takes a body of another type for an empty form. Raises BadRequest."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind not in FORMS:
        raise BadRequest(f"Send the fields as multipart/form-data, as `curl -F` does; {kind[:80]!r} is not read here.")
