"""OpenAI's parameters: null stands for the default, and one that is not supported may only say nothing."""

from collections.abc import Mapping
from typing import Any, ClassVar

from pydantic import model_validator

from app.api.fields import KnownFields
from app.api.problems import InvalidFields

Neutral = Mapping[str, tuple[Any, ...]]


class UnsupportedParameter(InvalidFields):
    """One of OpenAI's parameters that this server has no use for."""

    code = "unsupported_parameter"


class OpenAIFields(KnownFields):
    """``unsupported``: parameters of OpenAI's, with the values that mean the same as leaving them out."""

    unsupported: ClassVar[Neutral] = {}

    @model_validator(mode="before")
    @classmethod
    def _supported(cls, values: Any) -> Any:
        """What says nothing is dropped; the rest of what is unsupported is refused by name."""
        if not isinstance(values, dict):
            return values
        said = {name: value for name, value in values.items() if value is not None}
        refused = [name for name in said if name in cls.unsupported and said[name] not in cls.unsupported[name]]
        if refused:
            raise UnsupportedParameter(" ".join(cls._refusal(name) for name in refused), refused)
        return {name: value for name, value in said.items() if name not in cls.unsupported}

    @classmethod
    def _refusal(cls, name: str) -> str:
        neutral = " or ".join(repr(value) for value in cls.unsupported[name])
        return f"The parameter {name!r} is not supported; leave it out" + (f", or say {neutral}." if neutral else ".")
