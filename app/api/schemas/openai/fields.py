"""OpenAI's parameters: one that is not supported is accepted with a neutral value only."""

import json
from collections.abc import Mapping
from typing import Any, ClassVar

from app.api.problems import InvalidFields, printable
from app.api.schemas.fields import KnownFields

Neutral = Mapping[str, tuple[Any, ...]]


class UnsupportedParameter(InvalidFields):
    """A parameter of OpenAI's that this server does not support."""

    code = "unsupported_parameter"


class OpenAIFields(KnownFields):
    """``unsupported``: parameters of OpenAI's or vLLM's, with the values that mean the same as leaving them out."""

    unsupported: ClassVar[Neutral] = {}

    @classmethod
    def supported(cls, values: dict[str, Any]) -> dict[str, Any]:
        """Leave out unsupported parameters with a neutral value. Raises UnsupportedParameter for any other."""
        names = [name for name in cls.unsupported if name in values]
        refused = [name for name in names if not cls._is_neutral(name, values[name])]
        if refused:
            raise UnsupportedParameter(" ".join(cls._refusal(name) for name in refused), refused)
        return {name: value for name, value in values.items() if name not in cls.unsupported}

    @classmethod
    def _is_neutral(cls, name: str, value: Any) -> bool:
        neutral = cls.unsupported[name]
        if value != {} and cls.is_empty(name, value):  # `web_search_options: {}` asks for a search
            return True
        return value in neutral or (isinstance(value, str) and _as_json(value) in neutral)

    @classmethod
    def _refusal(cls, name: str) -> str:
        neutral = " or ".join(json.dumps(value) for value in cls.unsupported[name])
        return f"The parameter '{printable(name)}' is not supported; leave it out" + (
            f", or send {neutral}." if neutral else "."
        )


def _as_json(text: str) -> Any:
    """A number, boolean or list as a form sends it."""
    try:
        return json.loads(text[:100])
    except ValueError:
        return text
