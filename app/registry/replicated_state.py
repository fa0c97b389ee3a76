"""The state that all replicas share: the version behind each name, the selections, the unloads.

Every change makes a new state. This module does not touch a store.
"""

from pydantic import BaseModel, ConfigDict, Field

from app.errors import AdapterNotFound, Conflict, NotFound
from app.registry.rules import changed_meanwhile, check_free

UNLOADS_KEPT = 32


class Version(BaseModel):
    """``place``: the folder of its files in the store; ``files`` maps their names to sha256."""

    place: str
    files: dict[str, str]
    owner: str | None = None


class Name(BaseModel):
    """``current``: None for a removed adapter. ``last``: the highest number ever given, so none is given twice."""

    current: int | None = None
    last: int = 0
    versions: dict[int, Version] = {}

    @property
    def version(self) -> Version | None:
        return None if self.current is None else self.versions[self.current]


class Unload(BaseModel):
    """``names``: the adapters whose slots are to be freed; None: all."""

    number: int
    names: list[str] | None = None


class State(BaseModel):
    """``writer``: a random name of the attempt to write this state.

    Its changes raise Conflict, NotFound or AdapterNotFound where the state has changed meanwhile.
    """

    model_config = ConfigDict(extra="forbid")
    schema_version: int = Field(1, alias="schema", le=1)
    number: int = 0
    writer: str = ""
    names: dict[str, Name] = {}
    selected: dict[str, str] = {}
    unloads: list[Unload] = []

    def next_number(self, name: str) -> int:
        return self.names[name].last + 1 if name in self.names else 1

    def current(self, name: str) -> Version | None:
        return self.names[name].version if name in self.names else None

    def check_free(self, name: str, replace: bool, owner: str | None) -> None:
        """Raises Conflict for a name that is taken."""
        if taken := self.current(name):
            check_free(name, taken.owner, owner, replace=replace)

    def add(self, name: str, number: int, version: Version, keep: int, *, hold: bool = False) -> list[Version]:
        """Make ``version`` the current one; returns the versions that are no longer kept.

        ``hold``: a current one stays, and this joins the others.
        """
        if number != self.next_number(name):
            raise Conflict(f"{name!r} was published by another caller at the same moment; ask again.")
        entry = self.names.setdefault(name, Name())
        entry.versions[number] = version
        entry.last = number
        if not hold or entry.current is None:
            entry.current = number
        return _prune(entry, keep)

    def roll_back(self, name: str, seen: int | None, to: int) -> None:
        """Make ``to`` current where ``seen`` is; None: where the adapter is removed."""
        entry = self.names.get(name)
        if entry is None or entry.current != seen:
            raise changed_meanwhile(name)
        if to not in entry.versions:
            raise NotFound(f"{name!r} has no version {to} any more.")
        entry.current = to

    def remove(self, name: str, keep: int) -> list[Version]:
        """Have no current version; returns the versions that are no longer kept."""
        entry = self.names.get(name)
        if entry is None or entry.current is None:
            raise AdapterNotFound(name, [known for known in self.names if self.current(known)])
        entry.current = None
        return _prune(entry, keep)

    def unload(self, names: list[str] | None) -> None:
        last = self.unloads[-1].number if self.unloads else 0
        self.unloads = [*self.unloads, Unload(number=last + 1, names=names)][-UNLOADS_KEPT:]

    def unloads_after(self, number: int) -> list[Unload]:
        """Unloads after the one with this number; one of all slots where too many came to be kept."""
        later = [unload for unload in self.unloads if unload.number > number]
        if later and later[0].number > number + 1:
            return [Unload(number=later[-1].number)]
        return later


def _prune(entry: Name, keep: int) -> list[Version]:
    past = sorted(number for number in entry.versions if number != entry.current)
    return [entry.versions.pop(number) for number in past[:-keep]]
