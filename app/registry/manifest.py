"""`manifest.json`: what an adapter is, written by us beside what PEFT writes."""

import hashlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field

from app.errors import BadRequest

FILE = "manifest.json"
T = TypeVar("T")
Method = Literal["lora", "projector", "head"]


class BaseModelRef(BaseModel):
    """The base model that an adapter was trained over."""

    name: str
    fingerprint: str | None = None


class Manifest(BaseModel):
    """``parameters`` counts numbers, ``bytes`` the weight file; ``files`` maps names to sha256."""

    model_config = ConfigDict(extra="ignore")

    schema_version: int = Field(1, alias="schema")
    name: str
    version: int = 1
    base: BaseModelRef
    method: Method = "lora"
    rank: int = 0
    alpha: float = 0
    targets: list[str] = []
    parts: list[str] = []
    parameters: int = 0
    bytes: int = 0
    files: dict[str, str] = {}
    created: datetime = Field(default_factory=lambda: datetime.now(UTC))
    metrics: dict[str, Any] = {}
    dataset_fingerprint: str | None = None
    prompt: str | None = None
    task: str | None = None
    owner: str | None = Field(None, description="the tenant that it belongs to; null: everybody may use it")


def read_manifest(folder: Path) -> Manifest | None:
    """The folder's manifest; None without one. Raises BadRequest when it cannot be read."""
    file = folder / FILE
    if not file.is_file():
        return None
    try:
        return Manifest.model_validate_json(file.read_text())
    except OSError as error:  # its text names the path
        raise BadRequest(f"{FILE} cannot be read: {error.strerror}.") from None
    except (ValueError, RecursionError) as error:
        raise BadRequest(f"{FILE} cannot be read: {str(error).splitlines()[0]}.") from None


def damage(folder: Path, manifest: Manifest) -> list[str]:
    """What is wrong with the files that the manifest lists, each compared with its checksum. Reads them all."""
    found = []
    for name, digest in manifest.files.items():
        file = folder / name
        if Path(name).name != name or not file.is_file():
            found.append(f"{name}, which the manifest lists, is missing")
        elif sha256_of(file) != digest:
            found.append(f"{name} is damaged: its sha256 differs from the manifest's")
    return found


def compared(folder: Path, manifest: Manifest, read: Callable[[Path], T]) -> tuple[T | None, list[str]]:
    """What ``read`` finds, or else the damage; found out side by side, as each takes milliseconds."""
    with ThreadPoolExecutor(2) as pool:
        # signatures tell that a file was written, checksums that it is still what was written
        damaged, found = pool.submit(damage, folder, manifest), pool.submit(read, folder)
    return (None, damaged.result()) if damaged.result() else (found.result(), [])


def owner_in(folder: Path) -> str | None:
    """The tenant that a manifest names; None where there is none, or none that can be read."""
    try:
        manifest = read_manifest(folder)
    except BadRequest:
        return None
    return manifest.owner if manifest else None


def dump_manifest(manifest: Manifest) -> str:
    return manifest.model_dump_json(indent=2, by_alias=True) + "\n"


def sha256_of(file: Path) -> str:
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        while piece := stream.read(4 << 20):  # large ones: between two, others may hold the interpreter's lock
            digest.update(piece)
    return digest.hexdigest()
