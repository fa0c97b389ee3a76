"""One version of one adapter."""

from dataclasses import dataclass
from pathlib import Path

from app.registry.adapter_files.manifest import Manifest
from app.registry.adapter_files.validate import Report

Signature = tuple[tuple[str, int, int], ...]


@dataclass(frozen=True, eq=False)
class Adapter:
    """One version of one adapter. `uid` names its weights and no others, for as long as the process lives.

    ``files``: the signature of its folder, by which a later change is found. The registry knows where it lies now.
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


def signature_of(folder: Path) -> Signature:
    """Name, size in bytes and time of change in ns of each file; empty where the folder is gone."""
    try:
        stats = [(file.name, file.stat()) for file in sorted(folder.iterdir())]
    except OSError:
        return ()
    return tuple((name, stat.st_size, stat.st_mtime_ns) for name, stat in stats)
