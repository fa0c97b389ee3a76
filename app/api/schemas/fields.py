"""The base of all requests: an empty field counts as absent, and a misspelt name is refused."""

from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from functools import cache
from typing import Any, ClassVar, get_args, get_origin

from fastapi import UploadFile
from pydantic import BaseModel, ConfigDict, model_validator
from pydantic.fields import FieldInfo

from app.api.problems import MOST_REPORTED, InvalidFields, printable


class KnownFields(BaseModel):
    """Refuses fields that it does not know, and takes null, "" and blanks for a field that was not sent.

    ``hints``: other names that clients often write, with the field's own. ``verbatim``: fields in which blanks count.
    """

    model_config = ConfigDict(extra="forbid", arbitrary_types_allowed=True)
    hints: ClassVar[Mapping[str, str]] = {}
    verbatim: ClassVar[frozenset[str]] = frozenset()

    @classmethod
    def known(cls) -> Mapping[str, FieldInfo]:
        """The fields by the names that clients use."""
        return _known(cls)

    @classmethod
    def lists(cls) -> frozenset[str]:
        """The fields that may be repeated in a form."""
        return frozenset(name for name, info in cls.known().items() if _is_list(info.annotation))

    @classmethod
    def files(cls) -> frozenset[str]:
        """The fields of a form that take files."""
        kinds = (UploadFile, list[UploadFile])
        return frozenset(name for name, info in cls.known().items() if info.annotation in kinds)

    @classmethod
    def is_empty(cls, name: str, value: Any) -> bool:
        """True for a value that means the same as leaving the field out."""
        if isinstance(value, str):
            return not (value if name in cls.verbatim else value.strip())
        return value is None or value in ([], {})

    @classmethod
    def refuse_empty(cls, name: str) -> None:
        """Raises InvalidFields if the field must say something."""
        info = cls.known().get(name)
        if info is not None and info.is_required():
            wanted = f": {info.description}" if info.description else ""
            raise InvalidFields(f"{name} is empty; this field is required{wanted}.", [name])

    @classmethod
    def refuse_unknown(cls, names: Iterable[str]) -> None:
        """Raises InvalidFields with the nearest known names; of many, some are named."""
        unknown = [name for name in names if name not in cls.known()]
        if unknown:
            sentences = [cls._unknown(name) for name in unknown[:MOST_REPORTED]]
            more = [f"And {len(unknown) - len(sentences)} more."] if len(unknown) > len(sentences) else []
            raise InvalidFields(" ".join(sentences + more), [printable(name) for name in unknown[:MOST_REPORTED]])

    @model_validator(mode="before")
    @classmethod
    def _said(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        values = cls.supported(values)
        cls.refuse_unknown(values)
        kept = {}
        for name, value in values.items():
            # an empty list where one is required has better words of its own
            if not cls.is_empty(name, value) or (value == [] and cls.known()[name].is_required()):
                kept[name] = value
            else:
                cls.refuse_empty(name)
        return kept

    @classmethod
    def supported(cls, values: dict[str, Any]) -> dict[str, Any]:
        """The values without those that are known, say nothing and have no field here."""
        return values

    @classmethod
    def _unknown(cls, name: str) -> str:
        near = get_close_matches(name[:80].lower(), cls.known(), n=1, cutoff=0.5)
        meant = cls.hints.get(name) or (near[0] if near else None)
        return f"Unknown field '{printable(name)}'; " + (
            f"did you mean {meant!r}?" if meant else f"known: {', '.join(cls.known())}."
        )


def example(*bodies: Mapping[str, Any]) -> ConfigDict:
    """Configuration of a model whose schema shows these bodies."""
    return ConfigDict(json_schema_extra={"examples": [dict(body) for body in bodies]})


@cache
def _known(model: type[BaseModel]) -> Mapping[str, FieldInfo]:
    return {info.alias or name: info for name, info in model.model_fields.items()}


def _is_list(annotation: Any) -> bool:
    if get_origin(annotation) is list:
        return True
    return any(get_origin(part) is list for part in get_args(annotation))
