"""The keys file: JSON with one record a key. It holds hashes, never keys.

A key is `ot_`, its id, `_`, and 32 random bytes. So many random bits need no slow hash: SHA-256 of the whole
key is kept (OWASP's Password Storage Cheat Sheet asks for slow ones where people choose the secret).
"""

import hashlib
import os
import secrets
import stat
import tempfile
from collections.abc import Iterable
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from app.access.caller import ALL, Caller, Scope
from app.errors import BadRequest, NotFound

Pattern = Annotated[str, Field(pattern=r"^[a-z0-9._*?-]{1,64}$")]
Tenant = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$")]


class KeyRecord(BaseModel):
    """One key as the file keeps it; see `Caller` for what the fields mean."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: str = Field(pattern=r"^[0-9a-f]{8}$")
    name: str = Field(min_length=1, max_length=100, description="for people")
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    scopes: tuple[Scope, ...] = Field(min_length=1)
    tenant: Tenant | None = None
    adapters: tuple[Pattern, ...] = Field(ALL, min_length=1)
    per_minute: int | None = Field(None, ge=1)
    concurrent: int | None = Field(None, ge=1)
    created: datetime = Field(default_factory=lambda: datetime.now(UTC))

    def caller(self) -> Caller:
        return Caller(self.id, frozenset(self.scopes), self.tenant, self.adapters, self.per_minute, self.concurrent)


class _Records(BaseModel):
    model_config = ConfigDict(extra="forbid")
    keys: list[KeyRecord]


def digest(key: str) -> str:
    """SHA-256 of a key, in hex."""
    return hashlib.sha256(key.encode()).hexdigest()


def new_key() -> tuple[str, str]:
    """A fresh key and its id."""
    identity = secrets.token_hex(4)
    return f"ot_{identity}_{secrets.token_urlsafe(32)}", identity


def read_keys(file: Path) -> list[KeyRecord]:
    """Raises BadRequest when the file is missing or cannot be read."""
    try:
        return _Records.model_validate_json(file.read_bytes()).keys
    except FileNotFoundError:
        raise BadRequest(f"There is no keys file {file}; `overtone keys add NAME` makes one.") from None
    except OSError as error:
        raise BadRequest(f"The keys file {file} cannot be read ({error.strerror}).") from None
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "the JSON"
        raise BadRequest(f"The keys file {file} is wrong: {place}: {first['msg']}.") from None


def write_keys(file: Path, records: Iterable[KeyRecord]) -> None:
    """The old file or the new one, whole. A new one is readable by its owner alone, an old one keeps owner and mode.

    Raises BadRequest.
    """
    text = _Records(keys=list(records)).model_dump_json(indent=2) + "\n"
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        descriptor, fresh = tempfile.mkstemp(dir=file.parent, prefix=f".{file.name}-")  # mode 0600
        try:
            with os.fdopen(descriptor, "w") as stream:
                if file.exists():  # else a server of another user could read it no more, and revoke nothing
                    old = file.stat()
                    os.fchmod(descriptor, stat.S_IMODE(old.st_mode))
                    if (old.st_uid, old.st_gid) != (os.getuid(), os.getgid()):
                        os.fchown(descriptor, old.st_uid, old.st_gid)
                stream.write(text)
                stream.flush()
                os.fsync(stream.fileno())
            Path(fresh).replace(file)
        finally:
            with suppress(FileNotFoundError):
                Path(fresh).unlink()
    except OSError as error:
        raise BadRequest(f"The keys file {file} cannot be written ({error.strerror}).") from None


def revoke(file: Path, identity: str) -> KeyRecord:
    """Take a key out of the file. Raises NotFound, BadRequest."""
    records = read_keys(file)
    found = [record for record in records if record.id == identity]
    if not found:
        known = ", ".join(record.id for record in records) or "none"
        raise NotFound(f"There is no key {identity[:80]!r}; there are: {known}.")
    write_keys(file, [record for record in records if record.id != identity])
    return found[0]
