"""The registry folder on disk: staging, atomic switches, versions. Knows folders, not adapters.

<root>/<name>/                      the current version
<root>/.history/<name>/<version>/   older ones, and removed ones
<root>/.history/<name>/SWITCHING    there while two renames are under way
<root>/.staging/<random>/           being written, locked by its writer, or being deleted; means nothing here
<root>/.history/LOCK                held while folders are renamed: services, trainers and commands may share a root
"""

import fcntl
import os
import secrets
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from app.registry.adapter_files.manifest import FILE

MARKER = "SWITCHING"
LOCK = "LOCK"


class Store:
    """A crash at any point leaves the old version or the new one, whole; `recover` cleans up after it."""

    def __init__(self, root: Path, keep_versions: int, grace_s: float) -> None:
        self.root = root
        self._keep = keep_versions
        self._grace_s = grace_s
        self._left: dict[Path, float] = {}  # when a version was moved to the history
        self._history = root / ".history"
        self._staging = root / ".staging"

    def recover(self) -> None:
        """Clean up after a crash: delete staging folders, bring back a version that was moved aside.

        Folders that another process works on stay as they are.
        """
        self.root.mkdir(parents=True, exist_ok=True)
        for staging in self._staging.glob("*"):
            with _locked(staging, wait=False) as mine:
                if mine:
                    shutil.rmtree(staging, ignore_errors=True)
        if not any(self._history.glob(f"*/{MARKER}")):
            return
        with self.exclusive():
            for marker in self._history.glob(f"*/{MARKER}"):
                current = self.root / marker.parent.name
                moved_aside = marker.parent / (marker.read_text().strip() or "none")
                if not current.exists() and moved_aside.is_dir():
                    moved_aside.rename(current)
                marker.unlink()

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """No other process renames folders meanwhile; the system releases the lock of a process that dies."""
        self._history.mkdir(parents=True, exist_ok=True)
        (self._history / LOCK).touch()
        with _locked(self._history / LOCK, wait=True):
            yield

    def names(self) -> list[str]:
        """Folders that may hold an adapter."""
        return sorted(p.name for p in self.root.iterdir() if p.is_dir() and not p.name.startswith("."))

    def versions(self, name: str) -> list[int]:
        """Versions in the history, oldest first."""
        folder = self._history / name
        return sorted(int(p.name) for p in folder.iterdir() if p.name.isdigit()) if folder.is_dir() else []

    def removed(self) -> list[str]:
        """Names with versions in the history and none in their place."""
        if not self._history.is_dir():
            return []
        there = set(self.names())
        found = sorted(p.name for p in self._history.iterdir() if p.is_dir())
        return [name for name in found if name not in there and self.versions(name)]

    def past(self, name: str, version: int) -> Path:
        return self._history / name / str(version)

    @contextmanager
    def workspace(self) -> Iterator[Path]:
        """An empty folder, deleted at the end unless it was switched in, or by `recover` if this process dies."""
        self._staging.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(dir=self._staging))
        try:
            with _locked(folder, wait=False):
                yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    @contextmanager
    def staged(self, source: Path) -> Iterator[Path]:
        """A workspace with a copy of an adapter's files, synced to disk.

        Links are copied as the files they lead to; callers refuse links in folders that strangers name.
        """
        with self.workspace() as folder:
            for file in sorted(source.iterdir()):
                if file.is_file():
                    shutil.copyfile(file, folder / file.name)
                    sync(folder / file.name)
            yield folder

    def sync(self, staged: Path) -> None:
        """Flush what was written into a staged folder."""
        for file in staged.iterdir():
            sync(file)
        sync(staged)

    def seal(self, staged: Path, manifest: str) -> None:
        """Write the manifest, the last of an adapter's files."""
        (staged / FILE).write_text(manifest)
        sync(staged / FILE)
        sync(staged)

    def switch(self, name: str, new: Path, current_version: int | None) -> None:
        """Put the folder ``new`` in place of the current version, which joins the history.

        If the disk refuses half-way, the current version is put back. Raises OSError.
        """
        past = self._history / name
        past.mkdir(parents=True, exist_ok=True)
        marker = past / MARKER
        marker.write_text("none" if current_version is None else str(current_version))
        sync(marker)
        sync(past)
        if current_version is not None:
            self._move_aside(name, current_version)
        try:
            new.rename(self.root / name)
        except OSError:
            if current_version is not None:
                self.past(name, current_version).rename(self.root / name)
            raise
        sync(self.root)
        marker.unlink()
        self._prune(name)

    def put_aside(self, name: str, new: Path, version: int) -> Path:
        """Move the folder ``new`` into the history beside the current version, which stays; its place there."""
        target = self.past(name, version)
        target.parent.mkdir(parents=True, exist_ok=True)
        new.rename(target)
        sync(target.parent)
        self._prune(name)
        return target

    def withdraw(self, name: str, version: int) -> None:
        """Move the current version to the history."""
        self._move_aside(name, version)
        sync(self.root)
        self._prune(name)

    def set_aside(self, name: str) -> None:
        """Move a folder that is no version out of the way; nothing deletes it."""
        target = self._history / name / f"aside-{secrets.token_hex(4)}"
        target.parent.mkdir(parents=True, exist_ok=True)
        (self.root / name).rename(target)

    def _move_aside(self, name: str, version: int) -> None:
        target = self.past(name, version)
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.exists():
            self._delete(target)
        (self.root / name).rename(target)
        self._left[target] = time.monotonic()

    def _prune(self, name: str) -> None:
        """Delete old versions, except those that a waiting request may still need."""
        now = time.monotonic()
        self._left = {folder: left for folder, left in self._left.items() if now < left + self._grace_s}
        for version in self.versions(name)[: -self._keep]:
            if (folder := self.past(name, version)) not in self._left:
                with suppress(OSError):  # tried again after the next switch
                    self._delete(folder)

    def _delete(self, folder: Path) -> None:
        """Delete a folder so that, if this process dies, the folder is whole or gone under its name."""
        self._staging.mkdir(parents=True, exist_ok=True)
        doomed = Path(tempfile.mkdtemp(dir=self._staging))
        folder.rename(doomed)
        shutil.rmtree(doomed, ignore_errors=True)


@contextmanager
def _locked(path: Path, *, wait: bool) -> Iterator[bool]:
    """Lock a file or folder against other processes; False where one has it and ``wait`` is not set."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        yield False
        return
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            held = True
        except BlockingIOError:
            held = False
        yield held
    finally:
        os.close(descriptor)


def sync(path: Path) -> None:
    """Flush a file or folder to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
