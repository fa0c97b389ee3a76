"""One trainer process: started or found again, watched, ended."""

import os
import signal
import subprocess
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import psutil

from app.audio.forkserver import remove_left_behind

NICENESS = 10  # training takes the CPU time that serving leaves
_POLL_S = 0.2  # between two checks of a process that is not our child, for whose end no call waits


class Child:
    """A process and its group."""

    def __init__(self, process: psutil.Process, popen: "subprocess.Popen[bytes] | None" = None) -> None:
        self.pid = process.pid
        self._process = process
        self._popen = popen
        self._killer: threading.Timer | None = None

    @classmethod
    def start(cls, command: Sequence[str], log: Path, environment: dict[str, str]) -> "Child":
        """Run a command in a session of its own, its output appended to ``log``. Raises OSError."""
        with log.open("ab") as output:
            popen = subprocess.Popen(
                ["nice", "-n", str(NICENESS), *command],  # noqa: S607, nice of the PATH
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C at the service's terminal is not meant for it
                env=environment,
            )
        return cls(psutil.Process(popen.pid), popen)

    @classmethod
    def find(cls, pid: int, word: str) -> "Child | None":
        """The process that an earlier service started, if it still lives.

        ``word`` on its command line distinguishes it from a later process with the same number. Its start time would
        not: the system reports that by the wall clock, which may be set.
        """
        with suppress(psutil.Error):
            process = psutil.Process(pid)
            if word in process.cmdline() and _lives(process):
                return cls(process)
        return None

    @classmethod
    def search(cls, word: str) -> "Child | None":
        """The process with ``word`` on its command line, for a service that died before it noted the number."""
        for process in psutil.process_iter(["cmdline"]):
            with suppress(psutil.Error):
                if word in (process.info["cmdline"] or ()) and _lives(process):
                    return cls(process)
        return None

    def wait(self) -> int | None:
        """Block until it has ended; its exit code (negative: the signal), None if it was not our child."""
        if self._popen is not None:
            code: int | None = self._popen.wait()
        else:
            code = None
            while _lives(self._process):
                time.sleep(_POLL_S)
        if self._killer:
            self._killer.cancel()
        self._signal(signal.SIGKILL)  # what it left behind in its group: data loaders
        remove_left_behind()  # a trainer that was killed could not
        return code

    def stop(self, grace_s: float) -> None:
        """Ask it to end; whatever still runs after ``grace_s`` is killed."""
        if self._killer is None:
            self._signal(signal.SIGTERM)
            self._killer = threading.Timer(grace_s, self._signal, [signal.SIGKILL])
            self._killer.daemon = True
            self._killer.start()

    def _signal(self, number: signal.Signals) -> None:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, number)


def _lives(process: psutil.Process) -> bool:
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.Error:
        return False
