"""`manifest.json`: facts about an adapter, which this product writes beside PEFT's files."""

import hashlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, FiniteFloat, ValidationError

from app.errors import BadRequest
from app.registry.adapter_files.json_file import read_json

FILE = "manifest.json"
MAX_BYTES = 1 << 20
T = TypeVar("T")
Method = Literal["lora", "projector", "head"]


def _in_our_time(moment: datetime) -> datetime:
    """The moment with a time zone, UTC where none is given. Raises ValueError for years before 1970 or after 8999."""
    aware = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    if not 1970 < aware.year < 9000:
        raise ValueError(f"the year {moment.year} is none in which an adapter was made")
    return aware


Created = Annotated[datetime, AfterValidator(_in_our_time)]


class BaseModelRef(BaseModel):
    """The base model that an adapter was trained over."""

    name: str = Field(max_length=1000)
    fingerprint: str | None = Field(None, max_length=1000)


class Manifest(BaseModel):
    """``parameters`` counts numbers, ``bytes`` the weight file; ``files`` maps names to sha256."""

    model_config = ConfigDict(extra="ignore")

    schema_version: int = Field(1, alias="schema")
    name: str = Field(max_length=200)
    version: int = Field(1, ge=1, le=1 << 40)
    base: BaseModelRef
    method: Method = "lora"
    weights: str | None = Field(
        None, max_length=100, description="format of the base's matrices in training: bfloat16, float8, int8 or int4"
    )
    rank: int = 0
    alpha: FiniteFloat = 0
    targets: list[str] = Field([], max_length=1000)
    parts: list[str] = Field([], max_length=100)
    parameters: int = 0
    bytes: int = 0
    files: dict[str, str] = Field({}, max_length=100)
    created: Created = Field(default_factory=lambda: datetime.now(UTC))
    metrics: dict[str, Any] = {}
    dataset_fingerprint: str | None = Field(None, max_length=1000)
    prompt: str | None = Field(None, max_length=100_000)
    task: str | None = Field(None, max_length=10_000)
    owner: str | None = Field(None, description="the tenant that it belongs to; null: everybody may use it")


def read_manifest(folder: Path) -> Manifest | None:
    """The folder's manifest; None without one. Raises BadRequest when it cannot be read."""
    file = folder / FILE
    if not file.is_file():
        return None
    try:
        return Manifest.model_validate(read_json(file, MAX_BYTES))
    except FileNotFoundError:  # gone meanwhile
        return None
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the file"
        raise BadRequest(f"{FILE} cannot be read: {where[:80]}: {first['msg'][:200]}") from None


def damage(folder: Path, manifest: Manifest) -> list[str]:
    """Problems of the files that the manifest lists, each compared with its checksum. Reads them all."""
    found = []
    for name, digest in manifest.files.items():
        file = folder / name
        if Path(name).name != name or not file.is_file():
            found.append(f"{name}, which the manifest lists, is missing")
        elif sha256_of(file) != digest:
            found.append(f"{name} is damaged: its sha256 differs from the manifest's")
    return found


def compared(folder: Path, manifest: Manifest, read: Callable[[Path], T]) -> tuple[T | None, list[str]]:
    """The result of ``read``, or None and the damage; both run at the same time, as each takes milliseconds."""
    with ThreadPoolExecutor(2) as pool:
        # a signature shows that a file was written, a checksum that its content is still the same
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
    """The text of `manifest.json`."""
    return manifest.model_dump_json(indent=2, by_alias=True) + "\n"


def sha256_of(file: Path) -> str:
    """The file's sha256 in hexadecimal. Raises OSError."""
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        while piece := stream.read(4 << 20):  # large ones: between two, others may hold the interpreter's lock
            digest.update(piece)
    return digest.hexdigest()
