"""The receipt of a recording that was cut: the parts that were used, those that were skipped, and why."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise

from app.audio.decode import Receipt
from app.audio.segments import OVERLAP_S, Cut, Span

_NAMED = 5  # places at most


@dataclass(frozen=True)
class Segment:
    """A part of the recording that became one clip, in seconds."""

    start: float
    end: float


@dataclass(frozen=True)
class CutReceipt(Receipt):
    """``segments``: one per clip, in order. ``skipped_seconds``: silence in none of them."""

    segments: list[Segment] = field(default_factory=list)
    skipped_seconds: float = 0.0


def receipt_of(receipt: Receipt, cut: Cut, length: int, rate: int) -> CutReceipt:
    """The receipt of a recording of ``length`` samples at ``rate`` Hz, with the segments of ``cut``."""
    skipped = sum(silence.end - silence.start for silence in cut.skipped)
    facts = vars(replace(receipt, seconds_used=round((length - skipped) / rate, 3)))
    return CutReceipt(
        **facts | {"warnings": [*receipt.warnings, *_warnings(cut, skipped, rate)]},
        segments=[Segment(round(span.start / rate, 3), round(span.end / rate, 3)) for span in cut.spans],
        skipped_seconds=round(skipped / rate, 3),
    )


def _warnings(cut: Cut, skipped: int, rate: int) -> list[str]:
    found = []
    if skipped:
        places = [f"{silence.start / rate:.1f}-{silence.end / rate:.1f} s" for silence in cut.skipped]
        found.append(f"{skipped / rate:.1f} s of silence were skipped: {_some(places)}.")
    if cut.forced:
        places = [f"{place / rate:.1f} s" for place in cut.forced]
        found.append(f"No pause to cut in was found near {_some(places)}: {_remedy(cut.spans)}")
    return found


def _remedy(spans: Sequence[Span]) -> str:
    if any(later.start < earlier.end for earlier, later in pairwise(spans)):
        return f"up to {OVERLAP_S:g} s are transcribed twice there, and the texts joined at the words they share."
    return "the recording is cut at its quietest place there, so a word may be cut."


def _some(places: Sequence[str]) -> str:
    more = f" and {len(places) - _NAMED} more" if len(places) > _NAMED else ""
    return ", ".join(places[:_NAMED]) + more
