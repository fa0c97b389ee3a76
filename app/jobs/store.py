"""Job folders on disk.

<root>/.lock                 held by the one service that runs these jobs
<root>/<id>/job.json         the job; written last and atomically, so that its existence means a whole upload
<root>/<id>/events.jsonl     the trainer's events
<root>/<id>/log.txt          the trainer's output
<root>/<id>/data/            an uploaded data set
<root>/<id>/feedback/        rows of feedback beside another data set
<root>/<id>/work/            checkpoints
"""

import fcntl
import logging
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from app.errors import Conflict, StorageError
from app.jobs.job import Job, now
from app.jobs.redact import without_folders

log = logging.getLogger(__name__)
FILE = "job.json"
OWNERS = 0o700  # recordings, and what they were trained to say, are nobody else's on this machine
_ID = re.compile(r"\d{8}-\d{6}-[0-9a-f]{8}")


class JobStore:
    """Reads and writes job folders; knows nothing of processes."""

    def __init__(self, root: Path) -> None:
        self.root = root.absolute()
        self._lock: int | None = None

    def open(self) -> list[Job]:
        """Take the folder for this process and read it, oldest first; half-made jobs are deleted.

        Raises Conflict when another service has it, StorageError when it cannot be written.
        """
        with _as_storage_error():
            self.root.mkdir(mode=OWNERS, parents=True, exist_ok=True)
            self._lock = os.open(self.root / ".lock", os.O_CREAT | os.O_RDWR, 0o644)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self.close()
            raise Conflict("Another service runs the jobs in the folder of OVERTONE_JOBS; set another.") from None
        folders = [path for path in self.root.iterdir() if _ID.fullmatch(path.name)]
        for folder in folders:
            with suppress(OSError):  # another user's, who can see to it
                folder.chmod(OWNERS)
            if not (folder / FILE).exists():
                shutil.rmtree(folder, ignore_errors=True)
        return sorted(filter(None, map(_read, folders)), key=lambda job: job.queued)

    def close(self) -> None:
        """Release the folder's lock; the kernel does so when the process dies."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    @contextmanager
    def draft(self) -> Iterator[str]:
        """A folder for a new job; its id. Gone at the end unless the job was saved. Raises StorageError."""
        identity = f"{now():%Y%m%d-%H%M%S}-{secrets.token_hex(4)}"
        with _as_storage_error():
            self.root.mkdir(mode=OWNERS, parents=True, exist_ok=True)
            self.folder(identity).mkdir(mode=OWNERS)
            self.data(identity).mkdir()
        try:
            yield identity
        finally:
            if not (self.folder(identity) / FILE).exists():
                self.delete(identity)

    def link_data(self, job: Job, identity: str) -> str | None:
        """Link the uploaded data set of ``job`` into another job's folder; its data file. None without an upload.

        Raises StorageError.
        """
        own = self.data(job.id)
        if not Path(job.dataset).is_relative_to(own):
            return None
        with _as_storage_error():
            shutil.copytree(own, self.data(identity), copy_function=os.link, dirs_exist_ok=True)
        return str(self.data(identity) / Path(job.dataset).relative_to(own))

    def save(self, job: Job) -> None:
        """Write `job.json`: the old one or the new one, whole, whatever happens. Raises StorageError."""
        target = self.folder(job.id) / FILE
        fresh = target.with_suffix(".new")
        with _as_storage_error():
            with fresh.open("w") as stream:
                stream.write(job.model_dump_json(indent=2) + "\n")
                stream.flush()
                os.fsync(stream.fileno())
            fresh.replace(target)

    def delete(self, identity: str) -> None:
        """Remove the folder; `job.json` first, so that a crash on the way leaves nothing that looks whole."""
        with _as_storage_error():
            (self.folder(identity) / FILE).unlink(missing_ok=True)
            shutil.rmtree(self.folder(identity))

    def folder(self, identity: str) -> Path:
        return self.root / identity

    def data(self, identity: str) -> Path:
        return self.folder(identity) / "data"

    def feedback(self, identity: str) -> Path:
        return self.folder(identity) / "feedback"

    def work(self, identity: str) -> Path:
        return self.folder(identity) / "work"

    def events(self, identity: str) -> Path:
        return self.folder(identity) / "events.jsonl"

    def log(self, identity: str) -> Path:
        return self.folder(identity) / "log.txt"


def tail(file: Path, lines: int, most: int = 4 << 20) -> str:
    """The last lines of a log, of its last ``most`` bytes, without the server's folders; nothing without a file."""
    try:
        with file.open("rb") as stream:
            size = stream.seek(0, os.SEEK_END)
            stream.seek(max(0, size - most))
            # progress bars end their lines with a carriage return
            said = stream.read(most).decode(errors="replace").splitlines()[-lines:]
    except FileNotFoundError:
        return ""
    return str(without_folders("\n".join(said) + "\n")) if said else ""


def size_of(file: Path) -> int:
    """Bytes; 0 without a file."""
    return file.stat().st_size if file.exists() else 0


def _read(folder: Path) -> Job | None:
    """The job in a folder; None without one, and for one that cannot be read, which stays on disk."""
    if not (folder / FILE).exists():
        return None
    try:
        return Job.model_validate_json((folder / FILE).read_text())
    except (OSError, ValueError):
        log.exception("the job folder %s cannot be read", folder)
        return None


@contextmanager
def _as_storage_error() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StorageError(
            f"The jobs folder could not be written ({error.strerror}); the operator can free space, or set another "
            "OVERTONE_JOBS."
        ) from error
