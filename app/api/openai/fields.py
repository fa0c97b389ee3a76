"""What requests in OpenAI's shape have in common: parameters without support are refused by name."""

from typing import Any, ClassVar

from pydantic import model_validator

from app.api.fields import KnownFields
from app.api.problems import InvalidFields


class Unsupported(InvalidFields):
    code = "unsupported_parameter"


class OpenAIFields(KnownFields):
    """``nothing``: unsupported parameters and the values that ask for nothing; ``labels``: what changes no answer.

    null stands for the default, as OpenAI's clients mean it.
    """

    nothing: ClassVar[dict[str, tuple[Any, ...]]] = {}
    labels: ClassVar[frozenset[str]] = frozenset()

    @model_validator(mode="before")
    @classmethod
    def _supported(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        given = {name: value for name, value in values.items() if value is not None and name not in cls.labels}
        asked = [name for name in given if name in cls.nothing and given[name] not in cls.nothing[name]]
        if asked:
            raise Unsupported(" ".join(cls._refusal(name) for name in asked), asked)
        return {name: value for name, value in given.items() if name not in cls.nothing}

    @classmethod
    def _refusal(cls, name: str) -> str:
        """One sentence; with the values that are accepted."""
        accepted = " or ".join(repr(value) for value in cls.nothing[name])
        return f"{name!r} is not supported" + (f" beyond {accepted}." if accepted else "; leave it out.")
