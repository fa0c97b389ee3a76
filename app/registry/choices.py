"""Which adapter or mix answers the requests that name none."""

from collections.abc import Callable

EVERYBODY = ""
Chosen = dict[str, str]


class Choices:
    """By tenant, and everybody's under `EVERYBODY`, for those who have not chosen. Lost when the process ends."""

    def __init__(self) -> None:
        self._chosen: Chosen = {}

    def all(self) -> Chosen:
        return self._chosen

    def change(self, edit: Callable[[Chosen], None]) -> None:
        """Apply ``edit`` to a copy, which then holds."""
        chosen = dict(self._chosen)
        edit(chosen)
        self._chosen = chosen
