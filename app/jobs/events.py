"""The events file: JSON lines that the trainer appends and the service only reads."""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from app.jobs.job import EventSummary
from app.jobs.redact import without_folders

_KIND = re.compile(r"[a-z_]{1,40}")


@dataclass(frozen=True)
class Event:
    """One event; ``number`` counts from 1 in its file."""

    number: int
    kind: str
    data: dict[str, Any]


class Tail:
    """Reads new events at each call. A line that is still being written is read once it is complete."""

    def __init__(self, file: Path, offset: int = 0) -> None:
        self._file = file
        self._offset = offset
        self._number = 0

    def read(self) -> list[Event]:
        """The events since the last call; lines that are no events are skipped, but counted. Empty without a file."""
        lines = self._lines()
        first = self._number + 1
        self._number += len(lines)
        return [event for event in map(_parse, range(first, self._number + 1), lines) if event]

    def _lines(self) -> list[bytes]:
        try:
            with self._file.open("rb") as stream:
                stream.seek(self._offset)
                block = stream.read()
        except FileNotFoundError:
            return []
        whole = block[: block.rfind(b"\n") + 1]
        self._offset += len(whole)
        return whole.split(b"\n")[:-1]


def summary(file: Path, offset: int = 0) -> EventSummary:
    """A summary of the events from byte ``offset`` on."""
    found = EventSummary()
    for event in Tail(file, offset).read():
        found = found.model_copy(update={"events": found.events + 1, "last": event.kind, **_facts(event)})
    return found


def _facts(event: Event) -> dict[str, Any]:
    """The fields of `EventSummary` that an event sets. Values of a wrong type are left out: the file is not ours."""
    data = event.data
    match event.kind:
        case "gate":
            report = data.get("report")
            return {"gate": {"ok": bool(data.get("ok")), "report": report if isinstance(report, dict) else {}}}
        case "checked":
            return {"estimate": data["estimate"]} if isinstance(data.get("estimate"), dict) else {}
        case "exam":
            return {"exam": data}
        case "start":
            return {"started": data}
        case "step":
            return {"progress": data}
        case "eval":
            return {"evaluation": data}
        case "done":
            return {name: data[name] for name in ("adapter", "metrics") if isinstance(data.get(name), dict)}
        case "error":
            problems = data.get("problems")
            return {
                "error": str(data.get("message", "")),
                "code": code if isinstance(code := data.get("code"), str) else None,
                "problems": [str(problem) for problem in problems] if isinstance(problems, list) else [],
            }
    return {}


def _parse(number: int, line: bytes) -> Event | None:
    try:
        # a loss may be NaN, which JSON for browsers cannot say
        data = json.loads(line, parse_constant=lambda _: None)
    except (ValueError, RecursionError):
        return None
    if not isinstance(data, dict) or not _KIND.fullmatch(str(data.get("event"))):
        return None
    return Event(number, data.pop("event"), without_folders(data))
