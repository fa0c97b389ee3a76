"""The adapter or mix that answers requests that name none."""

from collections.abc import Callable

EVERYBODY = ""  # in place of a tenant: for the tenants that have selected none
Chosen = dict[str, str]


class DefaultAdapters:
    """Selections by tenant, and one under `EVERYBODY`. They are lost when the process ends."""

    def __init__(self) -> None:
        self._chosen: Chosen = {}

    def all(self) -> Chosen:
        """The adapter or mix by tenant; not to be changed."""
        return self._chosen

    def change(self, edit: Callable[[Chosen], None]) -> None:
        """Apply ``edit`` to a copy, which then holds."""
        chosen = dict(self._chosen)
        edit(chosen)
        self._chosen = chosen
