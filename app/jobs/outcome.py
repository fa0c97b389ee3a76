"""The end of a job, from the exit code, the events and the log of its process."""

import shutil
import signal
from pathlib import Path

from app.jobs.events import summary
from app.jobs.job import Asked, EventSummary, Job, State, now
from app.jobs.store import JobStore, tail

REFUSED = 2
ENDS = ("done", "checked")  # the last event of a job that has done what it was asked
_FULL_BYTES = 1 << 20
STOPPED = (-signal.SIGTERM, -signal.SIGINT, 128 + signal.SIGTERM, 128 + signal.SIGINT)


def fields_at_end(job: Job, code: int | None, store: JobStore) -> dict[str, object]:
    """The fields of a job whose process has ended with ``code``, None where it is not known. Reads its files."""
    fields: dict[str, object] = {"exit_code": code, "ended": now(), "pid": None}
    try:
        events = summary(store.events(job.id), job.read_from)
        state, error = outcome(code, job.asked, events, store.log(job.id))
    except OSError as problem:
        return fields | {"state": "failed", "error": f"The job's files cannot be read ({problem.strerror})."}
    return fields | {"state": state, "error": error, "told": events}


def outcome(code: int | None, asked: Asked | None, events: EventSummary, log: Path) -> tuple[State, str | None]:
    """The final state, and a sentence about what went wrong; None for success.

    Without an exit code (the process was adopted, or ended while no service watched) the last event decides.
    """
    if events.last in ENDS and code in (0, None):
        return "succeeded", None
    if code == REFUSED or (code is None and events.last == "error" and _gate_refused(events)):
        return "refused", events.error or _last_line(log) or "The trainer refused the data or the options."
    if asked:
        return asked, _ASKED[asked]
    if code in STOPPED or (code is None and events.last != "error"):
        return "interrupted", "The training ended before it was done; resume it from its last checkpoint."
    return "failed", events.error or _crash(code, log)


_ASKED: dict[Asked, str] = {
    "cancelled": "Cancelled on request; it can be resumed from its last checkpoint.",
    "interrupted": "The service was stopped; resume it from its last checkpoint.",
}


def _gate_refused(events: EventSummary) -> bool:
    return events.gate is not None and not events.gate["ok"]


def _crash(code: int | None, log: Path) -> str:
    if code == 0:
        return "The trainer ended without an error, but published no adapter; see its log."
    if code is not None and code < 0:
        memory = " (out of memory?)" if code == -signal.SIGKILL else ""
        return f"The trainer was killed by {signal.Signals(-code).name}{memory}; see its log."
    full = " The disk of the jobs folder is full." if shutil.disk_usage(log.parent).free < _FULL_BYTES else ""
    return f"The trainer crashed (exit code {code}): {_last_line(log) or 'it wrote no log'}{full}"


def _last_line(log: Path) -> str:
    """The last line of the log that is not empty, where Python names the exception."""
    lines = [line.strip() for line in tail(log, 20).splitlines()]
    return next((line[:500] for line in reversed(lines) if line), "")
