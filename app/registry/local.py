"""The registry of one machine: its folder is the truth."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from app.errors import AdapterNotFound, AdapterRejected, on_disk
from app.models.loading import BaseSpec
from app.registry.adapter import Adapter, Prepared, signature_of
from app.registry.adapter_files.validate import Report
from app.registry.base import Registry
from app.registry.default_adapter import DefaultAdapters
from app.registry.folder import FOLDER, AdapterFolder
from app.registry.numbering import LocalNumbers
from app.registry.rules import changed_meanwhile, check_free, check_name, older_versions


class LocalRegistry(Registry):
    """Services, trainers and commands on one machine may share its folder. Errors: see `Registry`."""

    def __init__(self, root: Path, spec: BaseSpec, *, max_rank: int, keep_versions: int, grace_s: float = 0.0) -> None:
        """``grace_s``: seconds for which a replaced version stays beyond ``keep_versions``, for waiting requests."""
        self._numbers = LocalNumbers()
        bounds: dict[str, Any] = {"max_rank": max_rank, "keep_versions": keep_versions, "grace_s": grace_s}
        super().__init__(AdapterFolder(root, spec, self._numbers, **bounds), DefaultAdapters())

    def versions(self, name: str) -> list[int]:
        return self.adapters.versions(name)

    def removed(self) -> dict[str, list[int]]:
        return self.adapters.removed()

    def past_owner(self, name: str, version: int) -> str | None:
        return self.adapters.past_owner(name, version)

    def refresh(self) -> list[str]:
        return self.adapters.refresh()

    def fetch_missing(self, name: str) -> None:
        """Nothing to do: there is no other replica."""

    def announce_unload(self, names: list[str] | None) -> None:
        """Nothing to do: there is no other replica."""

    @on_disk(FOLDER)
    def publish(
        self,
        folder: Path,
        name: str,
        *,
        replace: bool = False,
        owner: str | None = None,
        hold: bool = False,
        **fields: Any,
    ) -> Adapter:
        check_name(name)
        self._check_free(name, replace, owner)
        self.refresh()  # another process may have published
        # the owner is known here; an uploaded manifest may name another
        with (
            self._staged(folder, name, {**fields, "owner": owner or self.owner(name)}) as new,
            self.adapters.changing(),
        ):
            self._check_free(name, replace, owner)
            self.adapters.check_unchanged(name)
            if hold and self.adapters.find(name):
                return self.adapters.put_aside(name, new)
            return self.adapters.install(name, new, replaced=self._number_in_place(name))

    @on_disk(FOLDER)
    def rollback(self, name: str, version: int | None = None) -> Adapter:
        self.refresh()
        current = None if name in self.removed() else self.current(name)
        older = older_versions(name, self.adapters.past(name), current.version if current else None, version)
        version, report = self._newest_fitting(name, older)
        folder = self.adapters.past_folder(name, version)
        new = self.adapters.prepared(folder, name, version, report)
        with self.adapters.changing():
            if self.adapters.find(name) is not current or not folder.is_dir():
                raise changed_meanwhile(name)
            self.adapters.check_unchanged(name)
            number = self._numbers.of_past(name, version, signature_of(folder), self._taken(name))
            return self.adapters.install(name, new, replaced=self._number_in_place(name), number=number)

    @on_disk(FOLDER)
    def remove(self, name: str) -> None:
        self.refresh()
        with self.adapters.changing():
            if name not in self.adapters.folders():
                raise AdapterNotFound(name, self.names())
            self.adapters.check_unchanged(name)
            self.adapters.withdraw(name, self._number_in_place(name) or 0)

    @contextmanager
    def _staged(self, folder: Path, name: str, fields: dict[str, Any]) -> Iterator[Prepared]:
        """A copy with its number and manifest. Raises AdapterRejected when it does not fit."""
        with self.adapters.staged(folder) as (copy, report):
            yield self.adapters.seal(copy, report, name, self._numbers.next(name, self._taken(name)), fields)

    def _newest_fitting(self, name: str, versions: list[int]) -> tuple[int, Report]:
        """The newest of these past versions that can be served. Raises AdapterRejected when none can."""
        for version in reversed(versions):
            report = self.adapters.check(self.adapters.past_folder(name, version))
            if report.ok:
                return version, report
        raise AdapterRejected(f"Version {version} of {name!r} does not fit any more", report.problems)

    def _taken(self, name: str) -> list[int]:
        """Numbers of the versions on disk."""
        current = self.adapters.find(name)
        return [*self.adapters.past(name), *([current.version] if current else [])]

    def _number_in_place(self, name: str) -> int | None:
        """The number of the folder that has this name now, a new one for a broken folder; None without a folder."""
        if current := self.adapters.find(name):
            return current.version
        return self._numbers.next(name, self._taken(name)) if self.adapters.exists(name) else None

    def _check_free(self, name: str, replace: bool, publisher: str | None) -> None:
        if self.adapters.exists(name):
            check_free(name, self.owner(name), publisher, replace=replace)
