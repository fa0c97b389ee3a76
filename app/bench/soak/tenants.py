"""The keys of a soak with tenants: one of the operator, those of honest tenants, and a hostile tenant's."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from app.access.caller import SCOPES
from app.access.keys import KeyRecord, digest, new_key, write_keys

HONEST = ("honest-1", "honest-2")
HOSTILE = "hostile"
HOSTILE_AT_ONCE = 24  # requests of the hostile key: operators bound what one tenant runs at a time


@dataclass(frozen=True)
class Keys:
    """``honest``: by tenant. ``operator`` is of no tenant."""

    operator: str
    honest: Mapping[str, str]
    hostile: str


def write(file: Path) -> Keys:
    """Make new keys; ``file`` is the keys file that a server is to read."""
    made: dict[str, str] = {}
    records = []
    for name in ("operator", *HONEST, HOSTILE):
        made[name], identity = new_key()
        record = KeyRecord(
            id=identity,
            name=name,
            sha256=digest(made[name]),
            scopes=SCOPES,
            tenant=None if name == "operator" else name,
            concurrent=HOSTILE_AT_ONCE if name == HOSTILE else None,
        )
        records.append(record)
    write_keys(file, records)
    return Keys(made["operator"], {name: made[name] for name in HONEST}, made[HOSTILE])


def own_adapter(tenant: str) -> str:
    """The name of the one adapter that an honest tenant has for itself."""
    return f"private-of-{tenant}"
