"""The caller of a request: the scopes of its key, and the adapters that it sees."""

from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Literal, get_args

from app.errors import Forbidden

Scope = Literal["infer", "adapters", "train"]
SCOPES: tuple[Scope, ...] = get_args(Scope)
ALL = ("*",)


@dataclass(frozen=True)
class Caller:
    """``tenant``: the owner of adapters and jobs; those without an owner are visible too. None: no tenant, above all.

    ``adapters``: patterns (`*`, `?`) of names; only what one of them fits can be seen, a tenant's own aside.
    ``per_minute``, ``concurrent``: requests; None is no limit.
    """

    key: str
    scopes: frozenset[Scope] = frozenset(SCOPES)
    tenant: str | None = None
    adapters: tuple[str, ...] = ALL
    per_minute: int | None = None
    concurrent: int | None = None

    @property
    def sees_all(self) -> bool:
        return self.tenant is None and self.adapters == ALL

    def sees(self, name: str, owner: str | None) -> bool:
        """True where the adapter exists for this caller."""
        if self.tenant is not None and owner is not None:
            return owner == self.tenant
        return any(fnmatchcase(name, pattern) for pattern in self.adapters)

    def may_change(self, name: str, owner: str | None) -> bool:
        """A tenant changes what it owns; callers of no tenant what they see."""
        return owner == self.tenant if self.tenant is not None else self.sees(name, owner)

    def check_sources(self) -> None:
        """Raises Forbidden unless the caller may have the server read from its disk and with its accounts."""
        if self.tenant is not None:
            raise Forbidden("A tenant's key cannot make the server fetch or read files; upload them instead.")


OPERATOR = Caller("operator")  # the machine's own: command line, folder watch, a server without keys
