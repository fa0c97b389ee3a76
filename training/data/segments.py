"""The part of a recording that a row means: start and end, or offset and duration, as data sets write them."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

from training.data.fields import filled
from training.data.records import BadRow, shown

_START = (
    "start", "begin", "start_time", "begin_time", "time_start", "time_begin", "segment_start", "seg_start",
    "clip_start", "audio_start", "t_start", "xmin",
)  # fmt: skip
_END = (
    "end", "stop", "finish", "end_time", "stop_time", "time_end", "segment_end", "seg_end", "clip_end", "audio_end",
    "t_end", "xmax",
)  # fmt: skip
_DURATION = ("duration", "dur", "segment_duration", "audio_duration", "clip_duration")
# Seconds in one unit, by a name's end; None: the unit depends on the recording's rate
_UNITS: Mapping[str, float | None] = {
    **dict.fromkeys(("s", "sec", "secs", "second", "seconds"), 1.0),
    **dict.fromkeys(("ms", "msec", "msecs", "millis", "millisecond", "milliseconds"), 1e-3),
    **dict.fromkeys(("sample", "samples", "frame", "frames", "byte", "bytes"), None),
}
_CLOCK = re.compile(r"(?:(\d+):)?([0-5]?\d):([0-5]?\d(?:[.,]\d+)?)")
_NUMBER = re.compile(r"[+-]?\d+(?:[.,]\d+)?(?:e[+-]?\d+)?", re.IGNORECASE)


@dataclass(frozen=True)
class Part:
    """``start`` and ``end`` in seconds, None where the recording's own is meant.

    ``stated``: how long the recording is said to be, where no part is named. ``names``: the fields that said so.
    """

    start: float | None = None
    end: float | None = None
    stated: float | None = None
    names: frozenset[str] = frozenset()


@dataclass(frozen=True)
class _Time:
    """``explicit``: the name says the unit."""

    name: str
    seconds: float
    explicit: bool


def part_of(fields: Mapping[str, object]) -> Part:
    """The part that a row's normalised fields name. Seconds, unless a name says milliseconds.

    Raises BadRow for a value that is no time, for samples, for two units in one row, and for an end before its start.
    """
    onset = _find(fields, ("onset",))
    offset = _find(fields, ("offset", "start_offset", "audio_offset"))
    start, end = _find(fields, _START), _find(fields, _END)
    if onset and offset:  # lists of sound events: from onset to offset
        start, end, offset = _only(start, onset, "start"), _only(end, offset, "end"), None
    start = _only(_only(start, onset, "start"), offset, "start")
    names = frozenset(name for name in fields if _base(name)[0] in _ALL)
    if not start and not end:
        return Part(stated=_stated(fields), names=names)
    first = start.seconds if start else 0.0
    if end:
        _one_unit(start, end)
        last: float | None = end.seconds
        _fits(first, end.seconds, start, fields)
    elif start and (duration := _find(fields, _DURATION)):
        _one_unit(start, duration)
        last = first + duration.seconds
    else:
        last = None
    if last is not None and not 0 <= first < last:
        raise BadRow(f"there is no part from {first:g} s to {last:g} s")
    return Part(first or None, last, names=names)


def _stated(fields: Mapping[str, object]) -> float | None:
    """The length that a row states and does not mean as a part; what cannot be read as one is not one."""
    try:
        duration = _find(fields, _DURATION)
    except BadRow:
        return None
    return duration.seconds if duration and duration.seconds > 0 else None


def _fits(first: float, last: float, start: _Time | None, fields: Mapping[str, object]) -> None:
    """A duration beside start and end is the part's, or the whole recording's; it is never less than the part's."""
    stated = _stated(fields)
    if stated is not None and start and not start.explicit and stated < 0.95 * (last - first) - 0.05:
        raise BadRow(f"the part from {first:g} s to {last:g} s is longer than the duration of {stated:g} s")


_ALL = frozenset((*_START, *_END, *_DURATION, "onset", "offset", "start_offset", "audio_offset"))


def is_time(name: str) -> bool:
    """True if a normal name is one of a part's times."""
    return _base(name)[0] in _ALL


def _base(name: str) -> tuple[str, float | None, bool]:
    """A name without its unit, the unit in seconds (None: samples), and whether the name says it."""
    for ending, unit in _UNITS.items():
        if name.endswith(f"_{ending}") and name.removesuffix(f"_{ending}") in _ALL:
            return name.removesuffix(f"_{ending}"), unit, True
    return name, 1.0, False


def _find(fields: Mapping[str, object], names: tuple[str, ...]) -> _Time | None:
    """The time that one of the names holds, with or without a unit at its end."""
    found: _Time | None = None
    for name, value in fields.items():
        base, unit, explicit = _base(name)
        if base not in names or not filled(value):
            continue
        if unit is None:
            raise BadRow(f"{name} counts samples; write seconds ({base})")
        found = _only(found, _Time(name, _seconds(name, value) * unit, explicit), base)
    return found


def _only(one: _Time | None, other: _Time | None, what: str) -> _Time | None:
    if one and other and not math.isclose(one.seconds, other.seconds, abs_tol=1e-3):
        raise BadRow(f"{one.name} and {other.name} name different times, and nothing says which is the {what}")
    return one or other


def _one_unit(*given: _Time | None) -> None:
    times = [time for time in given if time]
    if len({time.explicit for time in times}) > 1:
        named, plain = (next(time.name for time in times if time.explicit is is_so) for is_so in (True, False))
        raise BadRow(f"{named} says its unit and {plain} does not; name both alike, as in start_ms and end_ms")


def _seconds(name: str, value: object) -> float:
    """A number of units; a text may have a decimal comma, or be a clock's as in 1:02.5."""
    number: float | None = None
    if isinstance(value, bool):
        pass
    elif isinstance(value, int | float):
        number = float(value) if abs(value) < 1e12 else math.inf
    elif isinstance(value, str) and (clock := _CLOCK.fullmatch(value.strip())):
        hours, minutes, seconds = clock.groups()
        number = int(hours or 0) * 3600 + int(minutes) * 60 + float(seconds.replace(",", "."))
    elif isinstance(value, str) and _NUMBER.fullmatch(value.strip()):
        number = float(value.strip().replace(",", "."))
    if number is None or not math.isfinite(number) or (number < 0 and name not in _DURATION):
        raise BadRow(f"{name} must be a time in seconds, not {shown(value)}")
    return number
