"""One version of one adapter, and what may name it."""

import re
from dataclasses import dataclass
from pathlib import Path

from app.errors import BadRequest
from app.registry.manifest import Manifest
from app.registry.validate import Report

NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
RESERVED = "base"
NAME_RULE = "a name is 1 to 64 of a-z, 0-9, '.', '_' and '-', begins with a letter or digit, and is not 'base'"
Signature = tuple[tuple[str, int, int], ...]


@dataclass(frozen=True, eq=False)
class Adapter:
    """One version of one adapter; `uid` names its weights and no others, for as long as the process lives.

    ``files`` tells whether its folder has been changed since; ask the registry where it lies now.
    """

    name: str
    version: int
    files: Signature
    manifest: Manifest
    report: Report

    @property
    def uid(self) -> str:
        return f"{self.name}@{self.version}"


@dataclass(frozen=True)
class Prepared:
    """A staged folder that fits the base and holds its manifest."""

    folder: Path
    manifest: Manifest
    report: Report


def check_name(name: str) -> None:
    """Raises BadRequest unless ``name`` may name an adapter."""
    if not NAME.fullmatch(name) or name == RESERVED:
        raise BadRequest(f"{name[:80]!r} cannot name an adapter: {NAME_RULE}.")


def signature_of(folder: Path) -> Signature:
    """Changes whenever a file of the folder does."""
    try:
        stats = [(file.name, file.stat()) for file in sorted(folder.iterdir())]
    except OSError:  # vanished meanwhile
        return ()
    return tuple((name, stat.st_size, stat.st_mtime_ns) for name, stat in stats)
