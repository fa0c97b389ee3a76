"""A store that several replicas share, through fsspec: adapters' files, and the states that name them.

<url>/states/<number>.json          each is whole, written once and never over another; the highest number holds
<url>/adapters/<name>/<random>/     the files of one version; mean nothing until a state names them
"""

import errno
import hashlib
import logging
import os
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import fsspec

from app.errors import AdapterRejected, BadRequest, Conflict, OvertoneError, SharedStoreFailed
from app.registry.adapter_files.manifest import sha256_of
from app.registry.disk import sync
from app.registry.replicated_state import State, Version

log = logging.getLogger(__name__)
# Stores that refuse to write over an object: If-None-Match on S3, ifGenerationMatch on GCS …
EXCLUSIVE = frozenset({"file", "local", "s3", "s3a", "gs", "gcs", "abfs", "abfss", "az"})
STATES_KEPT = 100
_ATTEMPTS = 20


class RemoteStore:
    """Every method blocks: run it on a worker thread. Safe to use from any of them.

    All but the constructor raise SharedStoreFailed when the store cannot be reached.
    """

    def __init__(self, url: str) -> None:
        """``identity`` tells one store from another. Raises BadRequest for a URL that cannot be shared."""
        self.failure: str | None = None
        self._reached = time.monotonic()
        protocol = url.partition("://")[0] if "://" in url else "file"
        if protocol not in EXCLUSIVE or "::" in url:
            raise BadRequest(
                f"OVERTONE_SHARED_ADAPTERS cannot be a {protocol[:20]!r} store: it must refuse to write an object "
                f"twice, as these do: {', '.join(sorted(EXCLUSIVE))}."
            )
        try:
            self._system, path = fsspec.core.url_to_fs(url, use_listings_cache=False)
        except ImportError as error:
            raise BadRequest(f"OVERTONE_SHARED_ADAPTERS needs one more package: {error}") from None
        self._local = protocol in ("file", "local")
        self.identity = hashlib.sha256(url.encode()).hexdigest()[:12]
        self._root = path.rstrip("/")
        self._states = f"{self._root}/states"
        self._adapters = f"{self._root}/adapters"
        self._state = State()
        self._lock = threading.Lock()

    @property
    def age(self) -> float:
        """Seconds since it was last reached; every replica looks each `watch_seconds`."""
        return time.monotonic() - self._reached

    def read(self) -> State:
        """The newest state; not to be changed."""
        with self._reaching():
            number = self._highest()
            with self._lock:
                if self._state.number >= number:
                    return self._state
            state = State.model_validate_json(self._system.cat_file(self._path(number)))
            with self._lock:
                self._state = max(state, self._state, key=lambda known: known.number)
                return self._state

    def change(self, edit: Callable[[State], None]) -> State:
        """Apply ``edit`` to the newest state and write the result; again where another replica wrote first.

        Returns the new state. Raises what ``edit`` raises, and Conflict when others wrote first every time.
        """
        for attempt in range(_ATTEMPTS):
            state = self.read().model_copy(deep=True)
            edit(state)
            state.number += 1
            state.writer = secrets.token_hex(8)
            if self._create(self._path(state.number), state.model_dump_json(by_alias=True).encode()):
                self._check_kept(state.number)
                with self._lock:
                    self._state = max(state, self._state, key=lambda known: known.number)
                return state
            time.sleep(0.01 * secrets.randbelow(1 + 2 * attempt))
        raise Conflict("Too many replicas change the registry at the same moment; ask again.")

    def upload(self, folder: Path, name: str, owner: str | None) -> Version:
        """Copy an adapter's files into the store, where nothing names them yet."""
        place = f"{name}/{secrets.token_hex(8)}"
        files = {file.name: sha256_of(file) for file in sorted(folder.iterdir()) if file.is_file()}
        with self._reaching():
            self._system.makedirs(f"{self._adapters}/{place}", exist_ok=True)
            for file in files:
                self._system.put_file(str(folder / file), f"{self._adapters}/{place}/{file}")
                if self._local:
                    sync(Path(self._adapters, place, file))
        return Version(place=place, files=files, owner=owner)

    def download(self, version: Version, destination: Path) -> None:
        """Copy a version's files into a folder. Raises AdapterRejected when they differ from the upload."""
        for name, expected in version.files.items():
            with self._reaching():
                try:
                    self._system.get_file(f"{self._adapters}/{version.place}/{name}", str(destination / name))
                except FileNotFoundError:
                    raise AdapterRejected("It is damaged in the shared store", [f"{name} is missing"]) from None
            if sha256_of(destination / name) != expected:
                raise AdapterRejected("It is damaged in the shared store", [f"{name} has another checksum"])

    def delete(self, versions: list[Version]) -> None:
        """Delete the files of versions that no state names any more; files that cannot be deleted stay."""
        for version in versions:
            try:
                with self._reaching():
                    self._system.rm(f"{self._adapters}/{version.place}", recursive=True)
            except (SharedStoreFailed, FileNotFoundError) as error:
                log.warning("%s stays in the shared store: %s", version.place, error)

    def _highest(self) -> int:
        self._system.invalidate_cache()
        if self._local and not self._system.isdir(self._root):  # a share that is not mounted is no empty store
            raise NotADirectoryError(errno.ENOTDIR, "its folder is not there")
        try:
            found = self._system.ls(self._states, detail=False)
        except FileNotFoundError:
            return 0
        names = (str(path).rsplit("/", 1)[-1].removesuffix(".json") for path in found)
        return max((int(name) for name in names if name.isdecimal()), default=0)

    def _path(self, number: int) -> str:
        return f"{self._states}/{number:012d}.json"

    def _create(self, path: str, data: bytes) -> bool:
        """Write an object whole; False where another replica has written it already."""
        with self._reaching():
            try:
                if self._local:
                    self._link(Path(path), data)
                else:
                    self._system.pipe_file(path, data, mode="create")
            except OSError:  # FileExistsError, or the back end's own error for the service's answer
                if not self._system.exists(path):
                    raise
                # a client that retries by itself may find the object of its first try
                return bool(self._system.cat_file(path) == data)
        return True

    def _link(self, path: Path, data: bytes) -> None:
        """A file that appears whole or not at all, and never over another."""
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = path.with_name(f".{secrets.token_hex(8)}")
        try:
            with draft.open("xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.link(draft, path)
        finally:
            draft.unlink(missing_ok=True)

    def _check_kept(self, number: int) -> None:
        """Delete old states. Raises Conflict for one that came so late that it was written among those."""
        with self._reaching():
            if self._highest() >= number + STATES_KEPT:
                raise Conflict("This took so long that others have changed the registry; read it and ask again.")
            for old in range(max(1, number - STATES_KEPT - 2), number - STATES_KEPT + 1):
                with suppress(FileNotFoundError):
                    self._system.rm_file(self._path(old))

    @contextmanager
    def _reaching(self) -> Iterator[None]:
        """Any error of the back end counts as a failure to reach it, until the next success."""
        try:
            yield
        except (OvertoneError, FileExistsError, FileNotFoundError):
            raise
        except Exception as error:
            if self.failure is None:
                log.warning("the shared store failed", exc_info=error)
            self.failure = _reason(error)
            raise SharedStoreFailed(
                f"The shared store of adapters failed ({self.failure}); check what is current and try again soon."
            ) from error
        self.failure = None
        self._reached = time.monotonic()


def _reason(error: Exception) -> str:
    """The error in a few words, without addresses or paths."""
    if isinstance(error, ValueError):
        return "its state cannot be read"
    return getattr(error, "strerror", None) or type(error).__name__
