"""A server process of one's own: started on a free port, awaited, stopped."""

import signal
import socket
import subprocess
import sys
import time
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

from app.cli.client import Client
from app.errors import NotReady, OvertoneError

POLL_S = 0.1


class ServerProcess:
    """`overtone serve` as a child; its output goes to ``log``. Leaving the context stops it.

    ``environment``: the child's whole one; none: this process's own.
    """

    def __init__(self, log: Path, *options: str, environment: Mapping[str, str] | None = None) -> None:
        self.port = _free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._log = log
        command = [sys.executable, "-m", "app.cli.main", "serve", "--host", "127.0.0.1", "--port", str(self.port)]
        with log.open("wb") as stream:
            self._process = subprocess.Popen(
                [*command, *options],
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=subprocess.STDOUT,
                env=environment,
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()

    def wait_ready(self, seconds: float) -> None:
        """Return once `/ready` says yes. Raises NotReady with the end of the log when it never does."""
        deadline = time.monotonic() + seconds
        with Client(self.url) as client:
            while time.monotonic() < deadline:
                if self._process.poll() is not None:
                    raise NotReady(f"The server ended with code {self._process.returncode}:\n{self.log_tail()}")
                try:
                    client.call("GET", "/ready")
                    return
                except OvertoneError:
                    time.sleep(POLL_S)
        raise NotReady(f"The server was not ready after {seconds:.0f} s:\n{self.log_tail()}")

    def stop(self, seconds: float = 60.0) -> int:
        """Send SIGTERM and return the exit code; after ``seconds`` it is killed (-9)."""
        self._process.send_signal(signal.SIGTERM)
        try:
            return self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            self._process.kill()
            return self._process.wait()

    def log_tail(self, lines: int = 15) -> str:
        """The last lines that the server wrote."""
        with self._log.open(errors="replace") as stream:
            return "".join(deque(stream, lines)).rstrip()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
