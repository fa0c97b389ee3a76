"""The shared state that one replica goes by."""

import threading
from contextlib import suppress
from pathlib import Path

from app.registry.adapter import Adapter, Signature
from app.registry.adapter_files.manifest import sha256_of
from app.registry.replicated_state import State, Version

NOT_SHARED = "it is not a version that the shared store knows"


class KnownState:
    """The newest state that was read, kept in a file for a start at which the store cannot be reached.

    ``state``: None until the store was reached for the first time. ``unshared``: names whose folder here is not the
    version that the state names. A folder is served only if its files are that version's, under the version's number.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        self._lock = threading.Lock()
        self.unshared: set[str] = set()
        self.state: State | None = None
        with suppress(OSError, ValueError):
            self.state = State.model_validate_json(file.read_text())

    def update(self, state: State) -> None:
        """Go by ``state`` from now on unless a newer one is known. Raises OSError."""
        with self._lock:
            if self.state is not None and self.state.number >= state.number:
                return
            self.state = state
            draft = self._file.with_suffix(".draft")
            draft.write_text(state.model_dump_json(by_alias=True))
            draft.replace(self._file)

    def refusal(self, name: str, folder: Path) -> list[str]:
        """The reason why a folder is not served, where its files are not the shared version's."""
        self.unshared.discard(name)
        version = self.state.current(name) if self.state else None
        if version is not None and holds_version(folder, version):
            return []
        self.unshared.add(name)
        return [NOT_SHARED]

    def number_of_found(self, name: str, own: int, files: Signature, past: list[int], *, written: bool) -> int:
        """The manifest's number: the manifest is one of the shared version's files."""
        return own

    def record(self, adapter: Adapter) -> None:
        """A version that has become current is a shared one."""
        self.unshared.discard(adapter.name)


def holds_version(folder: Path, version: Version) -> bool:
    """True if a folder holds exactly a version's files, by name and sha256."""
    try:
        found = {file.name for file in folder.iterdir() if file.is_file()}
        return found == set(version.files) and all(sha256_of(folder / n) == s for n, s in version.files.items())
    except OSError:
        return False
