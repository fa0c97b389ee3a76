"""Rows of feedback on disk, a folder each, which appears whole by a rename.

<root>/<tenant>/<id>/row.json    the row; `_operator` in place of a tenant for callers without one
<root>/<tenant>/<id>/0.flac …    its recordings, with consent
<root>/<tenant>/.new-<random>/   being written; `.gone-<random>/`: being deleted; neither means anything
"""

import fcntl
import json
import logging
import os
import re
import secrets
import shutil
import threading
import time
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path
from typing import IO

from app.errors import Conflict, NotFound, on_disk
from app.feedback.recent import Upload
from app.feedback.row import FeedbackRow

log = logging.getLogger(__name__)
FILE = "row.json"
DATA = "data.jsonl"
FOLDER = "The feedback folder"
OWNERS = 0o700  # other users of this machine may not read recordings
NOBODY = "_operator"  # no tenant may have this name
LEFT_S = 3600.0  # after which half-written and half-deleted folders are deleted
BLOCK = 4096  # bytes of the disk that any file or folder takes at least
_ID = re.compile(r"\d{8}-\d{6}-[0-9a-f]{10}")
_TIME = "%Y%m%d-%H%M%S"


class FeedbackStore:
    """Safe to use from any thread, and from several processes. Every method blocks. Raises StorageError.

    ``most_bytes``: of one tenant. ``days``: after which a row is deleted.
    """

    def __init__(self, root: Path, most_bytes: int, days: float) -> None:
        self.root = root.absolute()
        self.most_bytes = most_bytes
        self.days = days
        self._lock = threading.Lock()

    @on_disk(FOLDER)
    def open(self) -> None:
        """Make the folder and delete what is too old."""
        self.root.mkdir(mode=OWNERS, parents=True, exist_ok=True)
        self.expire()

    @on_disk(FOLDER)
    def put(self, tenant: str | None, row: FeedbackRow, uploads: Sequence[Upload]) -> FeedbackRow:
        """Write a row, or write it again in place of the one about the same answer; the row as it is kept.

        ``uploads``: its recordings, none without consent. On return it is on disk for good. Raises Conflict where
        the tenant's rows take as much as they may.
        """
        with self._exclusive():
            old = self._about_the_same(tenant, row)
            if old is not None:
                row = row.model_copy(
                    update={"id": old.id, "time": old.time, "excluded": old.excluded, "split": old.split}
                )
            self._check_quota(tenant, sum(len(upload.data) for upload in uploads) + len(row.answer) + 2 * BLOCK)
            if old is not None:
                self._fill(self._folder(tenant, row.id), row, uploads)
                return row
            folder = self._tenant(tenant) / f".new-{secrets.token_hex(8)}"
            folder.parent.mkdir(mode=OWNERS, exist_ok=True)
            folder.mkdir(mode=OWNERS)
            try:
                self._fill(folder, row, uploads)
                folder.rename(self._folder(tenant, row.id))
            finally:
                shutil.rmtree(folder, ignore_errors=True)
            for place in (self._tenant(tenant), self.root):
                _sync(place)
        return row

    @on_disk(FOLDER)
    def all(self, tenant: str | None) -> list[FeedbackRow]:
        """The rows of a tenant, newest first; one that cannot be read is left out and logged."""
        rows = [row for name in self._ids(tenant) if (row := self._read(tenant, name)) is not None]
        return sorted(rows, key=lambda row: row.time, reverse=True)

    @on_disk(FOLDER)
    def get(self, tenant: str | None, identity: str) -> FeedbackRow:
        """One row. Raises NotFound."""
        row = self._read(tenant, identity) if identity in self._ids(tenant) else None
        if row is None:
            raise NotFound(f"There is no row of feedback {identity[:80]!r}; GET /feedback lists them.")
        return row

    @on_disk(FOLDER)
    def save(self, tenant: str | None, row: FeedbackRow) -> FeedbackRow:
        """Write changed fields of a row that is there. Raises NotFound."""
        with self._exclusive():
            self.get(tenant, row.id)
            _write(self._folder(tenant, row.id) / FILE, row.model_dump_json(indent=1).encode())
        return row

    @on_disk(FOLDER)
    def delete(self, tenant: str | None, identity: str) -> None:
        """Delete a row with its recordings. Raises NotFound."""
        with self._exclusive():
            if identity not in self._ids(tenant):
                self.get(tenant, identity)  # for its error
            self._delete(self._folder(tenant, identity))

    def recording(self, tenant: str | None, row: FeedbackRow, index: int) -> Path:
        """The file of a recording that was kept. Raises NotFound."""
        if not 0 <= index < len(row.recordings) or not row.recordings[index].kept:
            raise NotFound(f"The row {row.id} keeps no recording {index}; it was given without consent.")
        return self._folder(tenant, row.id) / _name(index, row.recordings[index].kind)

    @on_disk(FOLDER)
    def use(self, tenant: str | None) -> int:
        """Bytes of the disk that a tenant's rows take."""
        folders = [self._folder(tenant, name) for name in self._ids(tenant)]
        files = (file for folder in folders for file in _entries(folder))
        return sum(max(file.stat().st_size, BLOCK) for file in files) + BLOCK * len(folders)

    @on_disk(FOLDER)
    def expire(self) -> None:
        """Delete rows beyond their days, and what a crash has left behind."""
        for tenant in _entries(self.root):
            if not tenant.is_dir():
                continue
            for entry in _entries(Path(tenant.path)):
                if self._is_over(entry.name) if _ID.fullmatch(entry.name) else _is_left(entry):
                    self._delete(Path(entry.path))

    # -- as a data set ----------------------------------------------------------------------------

    @on_disk(FOLDER)
    def write_zip(self, tenant: str | None, rows: Iterable[FeedbackRow], target: IO[bytes]) -> None:
        """A data set as `overtone train` reads it: `data.jsonl` and `audio/`."""
        with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as archive:
            lines = []
            for row, files in self._files_of(tenant, rows):
                for name, file in files:
                    archive.write(file, name)
                lines.append(_line(row, [name for name, _ in files]))
            archive.writestr(DATA, "".join(lines))

    @on_disk(FOLDER)
    def write_folder(self, tenant: str | None, rows: Iterable[FeedbackRow], target: Path) -> Path:
        """The same in a folder; its data file. Recordings are linked where both lie on one disk."""
        lines = []
        target.mkdir(mode=OWNERS, exist_ok=True)
        for row, files in self._files_of(tenant, rows):
            for name, file in files:
                (target / name).parent.mkdir(exist_ok=True)
                try:
                    os.link(file, target / name)
                except OSError:
                    shutil.copyfile(file, target / name)
            lines.append(_line(row, [name for name, _ in files]))
        _write(target / DATA, "".join(lines).encode())
        return target / DATA

    def _files_of(
        self, tenant: str | None, rows: Iterable[FeedbackRow]
    ) -> Iterator[tuple[FeedbackRow, list[tuple[str, Path]]]]:
        """Usable rows with the names and places of their recordings, oldest first."""
        for row in sorted(rows, key=lambda one: one.time):
            if row.why_unusable is None:
                kinds = [recording.kind for recording in row.recordings]
                names = [f"audio/{row.id}-{index}.{kind}" for index, kind in enumerate(kinds)]
                yield row, [(name, self.recording(tenant, row, index)) for index, name in enumerate(names)]

    # -- files ------------------------------------------------------------------------------------

    def _fill(self, folder: Path, row: FeedbackRow, uploads: Sequence[Upload]) -> None:
        """Recordings first, then the row that names them, then away with those that it no longer names."""
        names = {_name(index, upload.kind): upload for index, upload in enumerate(uploads)}
        for name, upload in names.items():
            _write(folder / name, upload.data)
        _write(folder / FILE, row.model_dump_json(indent=1).encode())
        for entry in _entries(folder):
            if entry.name not in (*names, FILE):
                Path(entry.path).unlink()

    def _about_the_same(self, tenant: str | None, row: FeedbackRow) -> FeedbackRow | None:
        """The row about the same answer that is there already: its id ends in the same hash."""
        for name in self._ids(tenant):
            if row.request_id and name.endswith(row.id[-10:]):
                found = self._read(tenant, name)
                if found and (found.request_id, found.answer) == (row.request_id, row.answer):
                    return found
        return None

    def _check_quota(self, tenant: str | None, more: int) -> None:
        used = self.use(tenant)
        if used + more > self.most_bytes:
            raise Conflict(
                f"Your feedback takes {used / 1e6:.1f} of {self.most_bytes / 1e6:.1f} MB (OVERTONE_FEEDBACK_MB), and "
                "this row would not fit; delete rows (DELETE /feedback/{id}), or send it without consent to keep audio."
            )

    def _ids(self, tenant: str | None) -> list[str]:
        """Rows that are not over."""
        names = (entry.name for entry in _entries(self._tenant(tenant)))
        return [name for name in names if _ID.fullmatch(name) and not self._is_over(name)]

    def _is_over(self, name: str) -> bool:
        try:
            began = datetime.strptime(name[:15], _TIME).replace(tzinfo=UTC)
        except ValueError:
            return False
        return datetime.now(UTC) - began > timedelta(days=self.days)

    def _read(self, tenant: str | None, identity: str) -> FeedbackRow | None:
        try:
            return FeedbackRow.model_validate_json((self._folder(tenant, identity) / FILE).read_bytes())
        except FileNotFoundError:
            return None
        except ValueError:  # its message would show the row's text
            log.error("the row of feedback %s cannot be read", identity)
            return None

    def _delete(self, folder: Path) -> None:
        """Under its name it is whole or gone, whenever this process dies."""
        doomed = folder.with_name(f".gone-{secrets.token_hex(8)}")
        folder.rename(doomed)
        _sync(folder.parent)
        shutil.rmtree(doomed)

    def _tenant(self, tenant: str | None) -> Path:
        return self.root / (tenant or NOBODY)

    def _folder(self, tenant: str | None, identity: str) -> Path:
        return self._tenant(tenant) / identity

    @contextmanager
    def _exclusive(self) -> Iterator[None]:
        """No other thread or process changes rows meanwhile."""
        with self._lock:
            self.root.mkdir(mode=OWNERS, parents=True, exist_ok=True)
            descriptor = os.open(self.root / ".lock", os.O_CREAT | os.O_RDWR, 0o600)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX)
                yield
            finally:
                os.close(descriptor)


def new_id(request_id: str | None, answer: str) -> str:
    """The id of a row: its time, and a hash by which a second verdict on the same answer is found."""
    about = f"{request_id or secrets.token_hex(16)}\n{answer}"
    return f"{datetime.now(UTC):{_TIME}}-{sha256(about.encode(errors='surrogatepass')).hexdigest()[:10]}"


def _line(row: FeedbackRow, names: list[str]) -> str:
    return json.dumps(row.training_row(names), ensure_ascii=False) + "\n"


def _name(index: int, kind: str) -> str:
    return f"{index}.{kind}"


def _is_left(entry: "os.DirEntry[str]") -> bool:
    return entry.name.startswith((".new-", ".gone-")) and entry.stat().st_mtime < time.time() - LEFT_S


def _entries(folder: Path) -> "list[os.DirEntry[str]]":
    try:
        with os.scandir(folder) as found:
            return list(found)
    except (FileNotFoundError, NotADirectoryError):
        return []


def _write(target: Path, data: bytes) -> None:
    """The old file or the new one, whole, and on disk at the end."""
    fresh = target.with_name(f".{target.name}.new")
    with fresh.open("wb") as stream:
        os.fchmod(stream.fileno(), 0o600)
        stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())
    fresh.replace(target)
    _sync(target.parent)


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
