"""From what a request brings as its key to the caller behind it."""

import hmac
import logging
from collections.abc import Sequence
from pathlib import Path

from app.access.caller import SCOPES, Caller, Scope
from app.access.keys import digest, read_keys
from app.errors import BadRequest

log = logging.getLogger(__name__)


class Keyring:
    """The plain keys of the settings, and those of the keys file, which is read again when it changes.

    Without any keys everybody may do everything; with admin keys alone, everybody may ask.
    Raises BadRequest when the keys file cannot be read.
    """

    def __init__(self, api_keys: Sequence[str] = (), admin_keys: Sequence[str] = (), file: Path | None = None) -> None:
        users: frozenset[Scope] = frozenset({"infer"}) if admin_keys else frozenset(SCOPES)
        self._plain = [(digest(key), Caller(f"admin-{n}")) for n, key in enumerate(admin_keys, 1)]
        self._plain += [(digest(key), Caller(f"api-{n}", users)) for n, key in enumerate(api_keys, 1)]
        self._file = file
        self._seen = _stamp(file)
        self._filed = self._read()
        if api_keys or file:
            self.anonymous = Caller("anonymous", frozenset())
        else:
            self.anonymous = Caller("anonymous", users)
        self.guarded = bool(api_keys or admin_keys or file)
        self._complaint = ""

    def find(self, key: str) -> Caller | None:
        """The caller of a key. All digests are compared, in constant time each, so that timing shows nothing."""
        asked = digest(key)
        found = [caller for known, caller in (*self._plain, *self._filed) if hmac.compare_digest(asked, known)]
        return found[0] if found else None

    @property
    def guarded_for_all(self) -> bool:
        """True where every request needs a key."""
        return not self.anonymous.scopes

    def refresh(self) -> set[str]:
        """Read the keys file again if it changed; the ids of keys that are gone, or may do less or other things.

        A file that cannot be read leaves the keys as they are, and is tried again at each call. Blocking.
        """
        stamp = _stamp(self._file)
        if stamp == self._seen:
            return set()
        try:
            fresh = self._read()
        except BadRequest as error:
            if str(error) != self._complaint:
                log.error("the keys stay as they were, and the file is tried again: %s", error)
            self._complaint = str(error)
            return set()
        before, self._filed, self._seen, self._complaint = self._filed, fresh, stamp, ""
        log.info("the keys file was read: %d keys", len(fresh))
        kept = {(known, _rights(caller)) for known, caller in fresh}
        return {caller.key for known, caller in before if (known, _rights(caller)) not in kept}

    def _read(self) -> list[tuple[str, Caller]]:
        records = read_keys(self._file) if self._file else []
        return [(record.sha256, record.caller()) for record in records]


def _rights(caller: Caller) -> tuple[object, ...]:
    return caller.key, caller.scopes, caller.tenant, caller.adapters


def _stamp(file: Path | None) -> tuple[int, int, int] | None:
    try:
        stat = file.stat() if file else None
    except OSError:
        return None
    return (stat.st_ino, stat.st_size, stat.st_mtime_ns) if stat else None
