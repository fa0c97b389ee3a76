"""Commands that write files overwrite nothing without `--force`."""

from collections.abc import Iterable
from pathlib import Path

from app.errors import Conflict


def check_unused(places: Iterable[Path], force: bool) -> None:
    """Raises Conflict when one of the files or folders exists and ``force`` is not given."""
    there = [place for place in places if place.exists()]
    if not there or force:
        return
    more = f" and {len(there) - 1} more" if len(there) > 1 else ""
    raise Conflict(
        f"{there[0]}{more} would be overwritten; nothing was written. Name another folder, or give --force to replace "
        "what is there."
    )
