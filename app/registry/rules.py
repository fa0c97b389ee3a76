"""Rules of names and versions that the local, the replicated and a tenant's registry share."""

import re
from collections.abc import Iterable

from app.errors import BadRequest, Conflict, NotFound

NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
RESERVED = "base"
NAME_RULE = "a name is 1 to 64 of a-z, 0-9, '.', '_' and '-', begins with a letter or digit, and is not 'base'"


def is_name(name: str) -> bool:
    """True if an adapter may have this name."""
    return NAME.fullmatch(name) is not None and name != RESERVED


def check_name(name: str) -> None:
    """Raises BadRequest unless an adapter may have this name."""
    if not is_name(name):
        raise BadRequest(f"{name[:80]!r} cannot name an adapter: {NAME_RULE}.")


def check_free(name: str, owner: str | None, publisher: str | None, *, replace: bool) -> None:
    """Raises Conflict unless ``publisher`` may publish under a name that an adapter of ``owner`` has already.

    ``publisher``: a tenant; None stands for the operator, who may replace every tenant's adapter.
    """
    if publisher is not None and owner != publisher:
        raise name_taken(name)
    if not replace:
        raise Conflict(f"The name {name!r} is taken; choose another, or replace it explicitly.")


def name_taken(name: str) -> Conflict:
    """The error for a name that belongs to another caller."""
    return Conflict(f"The name {name!r} is taken; choose another.")


def changed_meanwhile(name: str) -> Conflict:
    """The error for an adapter that another request, process or hand has changed since it was read."""
    return Conflict(f"{name!r} was changed at the same moment; look at its versions and ask again.")


def older_versions(name: str, past: Iterable[int], current: int | None, version: int | None) -> list[int]:
    """The versions that a rollback may make current, oldest first.

    ``past``: the versions that are not current; ``current``: None where the current one is broken; ``version``: the
    one asked for, or None for those before the current one. Raises NotFound where there is none.
    """
    past = sorted(past)
    older = [v for v in past if (current is None or v < current if version is None else v == version)]
    if not older:
        raise NotFound(f"{name!r} has no such older version; there are: {', '.join(map(str, past)) or 'none'}.")
    return older
