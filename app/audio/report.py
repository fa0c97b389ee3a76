"""Warnings of a receipt: parts of a file that were not used, and changes that were made to its samples."""

from collections.abc import Iterator

from app.audio.containers.extent import Check, Extent, rest_of
from app.audio.containers.survey import survey
from app.audio.levels import CLIPPED_SHARE, INTEGER_SCALES, QUIET_DBFS
from app.audio.sniff import recognised
from app.audio.track import DecodedTrack

FEWEST_BYTES = 8  # after the end; fewer hold no sound
CUT_OFF = "The file seems cut off; what is there was used."
DAMAGED = "The file is damaged; what could be read of it was used."
_BARE = frozenset({"MP3", "AAC", "AC-3"})  # their frames were counted one by one


def warnings_of(data: bytes, extent: Extent | None, decoded: DecodedTrack, check: Check) -> list[str]:
    """All warnings about one recording, the most important first."""
    return [*_lost(data, extent, decoded, check), *_tracks(decoded), *_channels(decoded), *_level(decoded)]


def missing_seconds(extent: Extent | None, decoded: DecodedTrack | None) -> float:
    """Seconds that the container holds and that were not decoded; encoders' padding is not counted."""
    expected = extent.seconds if extent else None
    if not expected:
        return 0.0
    missing = expected - (decoded.seconds if decoded else 0.0)
    return missing if missing > 0.2 + 0.005 * expected else 0.0


def _lost(data: bytes, extent: Extent | None, decoded: DecodedTrack, check: Check) -> Iterator[str]:
    troubles, declared = decoded.source.troubles, decoded.source.declared
    missing = missing_seconds(extent, decoded)
    bare = extent is not None and extent.name in _BARE
    flac = extent is not None and extent.name == "FLAC"
    complete = flac and extent is not None and bool(extent.seconds) and decoded.seconds >= (extent.seconds or 0) - 1e-6
    if extent and extent.cut:
        yield CUT_OFF
    elif complete and troubles.packets:
        yield "The file holds bytes that belong to no recording; they were not used."
    elif troubles.only_at_end and not bare:
        yield CUT_OFF
    elif missing:
        if troubles.packets or troubles.broken:
            yield f"{DAMAGED[:-1]}; {missing:.1f} s are missing."
        elif flac:
            yield CUT_OFF
        else:
            yield f"{missing:.1f} s of the file could not be decoded; what could be read of it was used."
    elif (troubles.packets or troubles.broken) and not bare:
        yield DAMAGED
    elif (flac and extent and extent.seconds and not complete) or _ended_early(declared, decoded.seconds):
        yield CUT_OFF
    if skipped := (extent.skipped if extent else 0) + troubles.foreign:
        yield f"{skipped:,} bytes inside the file belong to no recording; they were passed over."
    if extent and not extent.cut and (rest := rest_of(data, extent.end, check)) >= FEWEST_BYTES:
        yield _after(data, extent, rest, check)


def _ended_early(declared: float | None, seconds: float) -> bool:
    return bool(declared) and seconds < 0.95 * (declared or 0) - 0.1


def _after(data: bytes, extent: Extent, rest: int, check: Check) -> str:
    """About ``rest`` bytes behind the end of the container."""
    tail = data[extent.end :]
    other = survey(tail, check)
    if other and other.name == extent.name:
        lasts = f", {other.seconds:.1f} s long," if other.seconds else ""
        return (
            f"Another {extent.name} recording{lasts} follows the first one in the file and was not used; "
            "send each as a file of its own."
        )
    name = f"{other.name} data" if other else recognised(tail) or "of no known format"
    size = f"{rest:,} bytes"
    seconds = rest * extent.seconds / extent.end if extent.plain and extent.seconds and not other else 0.0
    if seconds >= 0.05:
        size += f", as samples {seconds:.1f} s,"
    return f"The file goes on after the end of the recording: {size} were not used ({name.partition(';')[0]})."


def _tracks(decoded: DecodedTrack) -> Iterator[str]:
    source = decoded.source
    if source.tracks > 1:
        name = f" ({source.name!r})" if source.name else ""
        yield (
            f"The file holds {source.tracks} audio tracks; track {source.track}{name} was used, "
            f"the other{'s were' if source.tracks > 2 else ' was'} not."
        )


def _channels(decoded: DecodedTrack) -> Iterator[str]:
    for mix in decoded.mixes:
        if mix is not None:
            used = [index + 1 for index in range(len(mix)) if mix[index]]
            plural = len(used) > 1
            yield (
                f"Channels are out of phase, so that their mix would cancel them; channel{'s' * plural} "
                f"{_listed(used)} of {len(mix)} {'were' if plural else 'was'} used."
            )
            break
    for verdict, mix in zip(decoded.verdicts, decoded.mixes, strict=True):
        if verdict.silent_channels and len(decoded.verdicts) == 1:
            number = len(verdict.silent_channels)
            total = decoded.channels if mix is None else len(mix)
            yield (
                f"Channel{'s' * (number > 1)} {_listed(verdict.silent_channels)} of {total} "
                f"{'are' if number > 1 else 'is'} silent and {'were' if number > 1 else 'was'} left out of the mix."
            )


def _level(decoded: DecodedTrack) -> Iterator[str]:
    divisor = max(one.divisor for one in decoded.verdicts)
    if divisor in INTEGER_SCALES:
        bits = {2.0**15: 16, 2.0**23: 24, 2.0**31: 32}[divisor]
        yield f"The float samples are {bits}-bit integers that were never scaled; they were divided by {divisor:.0f}."
    elif divisor != 1:
        yield f"The float samples run to {divisor:,.4g}, where full scale is 1; they were divided by that."
    if decoded.offset:
        yield f"The samples had an offset (DC) of {decoded.offset:.2f}, which was removed."
    loudest = max(one.loudest_dbfs for one in decoded.verdicts)
    if decoded.silent:
        yield "The recording is silent."
    elif loudest < QUIET_DBFS:
        yield f"The recording is very quiet ({loudest:.0f} dBFS at its loudest); record at a higher level."
    clipped = max(one.clipped for one in decoded.verdicts)
    if clipped > CLIPPED_SHARE:
        yield f"{clipped:.1%} of the samples are clipped; record at a lower level."


def _listed(numbers: tuple[int, ...] | list[int]) -> str:
    if len(numbers) < 2:
        return "".join(map(str, numbers))
    if len(numbers) > 3 and numbers[-1] - numbers[0] == len(numbers) - 1:
        return f"{numbers[0]} to {numbers[-1]}"
    return f"{', '.join(map(str, numbers[:-1]))} and {numbers[-1]}"
