"""The process from which decoding processes are forked. It loads their libraries once and runs no other thread."""

import fcntl
import logging
import multiprocessing
import os
import shutil
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from glob import glob
from multiprocessing import forkserver, util
from pathlib import Path
from types import ModuleType
from typing import Any

log = logging.getLogger(__name__)

DECODING = ("app.audio.worker", "app.audio.decode", "soundfile", "av", "soxr")
CLIPS = (*DECODING, "app.models.features", "transformers.feature_extraction_sequence_utils")
_OWNED = "overtone-decoders"  # a file that marks the folder of a forkserver's socket; its owner holds a lock on it
_OWNERS: list[int] = []  # the descriptor of this process's lock, once the forkserver was started
_STARTING = threading.Lock()
_HIDING_MAIN = threading.Lock()


def preload(modules: Sequence[str] = CLIPS) -> None:
    """Start the process and have it load ``modules``, beside this process; without effect once it runs."""
    if not _available():
        return
    with _STARTING:
        if _OWNERS:
            return
        _mark_folder()
        multiprocessing.get_context("forkserver").set_forkserver_preload(list(modules))
        with _own_path():
            forkserver.ensure_running()


@contextmanager
def without_main() -> Iterator[None]:
    """Processes started within do not import the caller's script, which would run once more if it has no guard."""
    with _HIDING_MAIN:
        main = sys.modules["__main__"]
        sys.modules["__main__"] = ModuleType("__main__")
        try:
            yield
        finally:
            sys.modules["__main__"] = main


def context(modules: Sequence[str] = CLIPS) -> Any:
    """The context with which `multiprocessing` starts workers; ``modules`` as for `preload`."""
    if not _available():
        return multiprocessing.get_context("spawn")
    preload(modules)
    return multiprocessing.get_context("forkserver")


def _available() -> bool:
    return "forkserver" in multiprocessing.get_all_start_methods()


@contextmanager
def _own_path() -> Iterator[None]:
    """Python programs that are started meanwhile import from where this one does.

    Python 3.11's forkserver looks into the working folder first, which may hold another `app`.
    """
    before = {name: os.environ.get(name) for name in ("PYTHONPATH", "PYTHONSAFEPATH")}
    os.environ.update(PYTHONPATH=os.pathsep.join(part or os.getcwd() for part in sys.path), PYTHONSAFEPATH="1")
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _mark_folder() -> None:
    """Name this process as the owner of its folder `pymp-…`, which holds the forkserver's socket.

    `multiprocessing` removes it at exit, but not when this process is killed; then the next one does it here.
    """
    remove_left_behind()
    folder = Path(util.get_temp_dir())
    try:
        new = folder / f"{_OWNED}.new"
        held = os.open(new, os.O_RDWR | os.O_CREAT, 0o600)
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        new.rename(folder / _OWNED)  # others see it with its lock
    except OSError as error:
        log.debug("%s cannot be marked: %s", folder, error)
        held = -1
    _OWNERS.append(held)


def remove_left_behind() -> None:
    """Remove the temporary folders of forkservers whose owner has died; those of other programs are not touched."""
    for mark in map(Path, glob(os.path.join(tempfile.gettempdir(), f"pymp-*/{_OWNED}"))):
        with suppress(OSError):
            held = os.open(mark, os.O_RDWR | os.O_NOFOLLOW)
            try:
                fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if os.fstat(held).st_uid == os.getuid():
                    shutil.rmtree(mark.parent, ignore_errors=True)
            finally:
                os.close(held)
