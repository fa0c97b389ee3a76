"""The one translation of names in an adapter's files to the module paths of the base model here.

PEFT names tensors and patterns by the module paths that the model had while the adapter was trained. transformers has
moved the parts of its audio models since, so a file may use another layout than the model that is served: see
`app.models.layout.OLDER`.

A *written name* is a name as the file has it, without PEFT's prefix; a *path* is the same place in today's layout.
Patterns of a configuration match written names, because that is what they matched during training.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from app.errors import BadRequest
from app.models.layout import OLDER

PREFIX = "base_model.model."
_INSIDE_WRAPPERS = (".base_layer.", ".token_adapter.")


@dataclass(frozen=True)
class Name:
    """One tensor's ``key`` in the file, its ``written`` name, and its ``path`` below the base model today."""

    key: str
    written: str
    path: str

    @property
    def peft_key(self) -> str:
        """The key by which PEFT finds the tensor in a model of today's layout."""
        if self.written.startswith("base_model."):
            return self.written
        return PREFIX + translate(self.written)


def translate(name: str) -> str:
    """A written name of a module, parameter or tensor as a path of today's layout."""
    whole = f"{name}."
    for older, today in OLDER:
        if whole.startswith(older):
            return (today + whole.removeprefix(older))[:-1]
    return name


def module_path(key: str) -> str:
    """A key of the weight file as a path in the base model, whatever transformers wrote it."""
    return name_of(key).path


def name_of(key: str) -> Name:
    """A key of the weight file, without PEFT's prefix and in both layouts."""
    written = key.removeprefix(PREFIX)
    path = translate(written)
    for infix in _INSIDE_WRAPPERS:
        path = path.replace(infix, ".")
    return Name(key, written, path)


def spellings(path: str) -> list[str]:
    """A path of today's layout in every layout, today's first."""
    whole = f"{path}."
    found = [path]
    found += [(older + whole.removeprefix(today))[:-1] for older, today in OLDER if whole.startswith(today)]
    return found


def names_of(keys: Iterable[str]) -> list[Name]:
    """All names of a weight file. Raises BadRequest where two keys mean one tensor."""
    names = [name_of(key) for key in keys]
    by_path: Mapping[str, list[str]] = _grouped(names)
    for path, same in by_path.items():
        if len(same) > 1:
            others = ", ".join(sorted(same)[:3])
            raise BadRequest(
                f"the weights hold {path[:200]} under {len(same)} names ({others[:400]}): it is not known "
                "which one was trained; keep one of them"
            )
    return names


def _grouped(names: list[Name]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = defaultdict(list)
    for name in names:
        found[name.path].append(name.key)
    return found
