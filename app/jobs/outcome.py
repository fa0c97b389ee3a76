"""How a job ended, from what its process left: exit code, events, last words."""

import shutil
import signal
from pathlib import Path

from app.jobs.job import Asked, State, Told
from app.jobs.store import tail

REFUSED = 2
ENDS = ("done", "checked")  # the last event of a job that has done what it was asked
_FULL_BYTES = 1 << 20
STOPPED = (-signal.SIGTERM, -signal.SIGINT, 128 + signal.SIGTERM, 128 + signal.SIGINT)


def outcome(code: int | None, asked: Asked | None, told: Told, log: Path) -> tuple[State, str | None]:
    """The final state, and what went wrong in words.

    Without an exit code (the process was adopted, or ended while no service watched) the last event decides.
    """
    if told.last in ENDS and code in (0, None):
        return "succeeded", None
    if code == REFUSED or (code is None and told.last == "error" and _gate_said_no(told)):
        return "refused", told.error or _last_words(log) or "The trainer refused the data or the options."
    if asked:
        return asked, _ASKED[asked]
    if code in STOPPED or (code is None and told.last != "error"):
        return "interrupted", "The training ended before it was done; resume it from its last checkpoint."
    return "failed", told.error or _crash(code, log)


_ASKED: dict[Asked, str] = {
    "cancelled": "Cancelled on request; it can be resumed from its last checkpoint.",
    "interrupted": "The service was stopped; resume it from its last checkpoint.",
}


def _gate_said_no(told: Told) -> bool:
    return told.gate is not None and not told.gate["ok"]


def _crash(code: int | None, log: Path) -> str:
    if code == 0:
        return "The trainer ended without an error, but published no adapter; the log tells more."
    if code is not None and code < 0:
        memory = " (out of memory?)" if code == -signal.SIGKILL else ""
        return f"The trainer was killed by {signal.Signals(-code).name}{memory}; the log tells more."
    full = " The disk of the jobs folder is full." if shutil.disk_usage(log.parent).free < _FULL_BYTES else ""
    return f"The trainer crashed (exit code {code}): {_last_words(log) or 'it said nothing'}{full}"


def _last_words(log: Path) -> str:
    """The last line of the log that is not empty, where Python names the exception."""
    lines = [line.strip() for line in tail(log, 20).splitlines()]
    return next((line[:500] for line in reversed(lines) if line), "")
