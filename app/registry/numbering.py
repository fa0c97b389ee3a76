"""Version numbers: the rules that a folder of adapters goes by, and those of a registry on one machine."""

import threading
from collections.abc import Iterable
from pathlib import Path
from typing import Protocol

from app.registry.adapter import Adapter, Signature


class VersionRules(Protocol):
    """Decides whether a folder on disk is a version, and under which number."""

    def refusal(self, name: str, folder: Path) -> list[str]:
        """Reasons why a folder that fits the base is not served all the same."""

    def number_of_found(self, name: str, own: int, files: Signature, past: list[int], *, written: bool) -> int:
        """The number of a folder that was not put in its place through this registry.

        ``own``: the number in its manifest, 1 without one (``written`` is False then). ``past``: the numbers in the
        history.
        """

    def record(self, adapter: Adapter) -> None:
        """Called for each version that becomes current."""


class LocalNumbers:
    """No two versions of a name get one number, and no number is used for other files again.

    A uid thus names the same weights for as long as the process lives. Safe to use from any thread.
    """

    def __init__(self) -> None:
        self._highest: dict[str, int] = {}  # by name, never forgotten
        self._files: dict[str, Signature] = {}  # by uid, never forgotten
        self._lock = threading.Lock()

    def next(self, name: str, taken: Iterable[int]) -> int:
        """A number that no version of this name has had. ``taken``: the numbers of the versions on disk."""
        with self._lock:
            self._highest[name] = max([self._highest.get(name, 0), *taken]) + 1
            return self._highest[name]

    def of_past(self, name: str, version: int, files: Signature, taken: Iterable[int]) -> int:
        """A past version's own number, or a new one where its files are not those that had it in this process."""
        return version if self._files.get(f"{name}@{version}", files) == files else self.next(name, taken)

    def refusal(self, name: str, folder: Path) -> list[str]:
        """No reasons: every folder that fits is served."""
        return []

    def number_of_found(self, name: str, own: int, files: Signature, past: list[int], *, written: bool) -> int:
        """The manifest's number if it stands for these files or for none; else a new one."""
        rolled_back = written and self._files.get(f"{name}@{own}") == files  # by another process
        free = own > self._highest.get(name, 0) and own not in past
        return own if rolled_back or free else self.next(name, past)

    def record(self, adapter: Adapter) -> None:
        """Remember the number and the files of a version that has become current."""
        with self._lock:
            self._highest[adapter.name] = max(adapter.version, self._highest.get(adapter.name, 0))
            self._files[adapter.uid] = adapter.files
