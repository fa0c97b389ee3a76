"""Work for a pool of decoders that does what it is told; imported by the workers, so it stays small."""

import os
import signal
import socket
from pathlib import Path

import numpy as np

from app.audio.pool import MEMORY_BYTES
from app.errors import AudioError


def misbehave(data: bytes, filename: str | None) -> str:
    """Does what ``data`` says."""
    match data.decode():
        case "crash":
            os.kill(os.getpid(), signal.SIGSEGV)
        case "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        case "loop":
            while True:
                pass
        case "hoard":
            np.ones(2 * MEMORY_BYTES, np.int8)
        case "bug":
            raise ZeroDivisionError
        case "open":
            Path(__file__).read_bytes()
        case "connect":
            socket.create_connection(("127.0.0.1", 9))
        case "refuse":
            raise AudioError(f"{filename} is refused.")
    return f"{os.getpid()}"
