"""Bytes to mono float32 samples at the model's rate, with a receipt.

The container is surveyed first, so that the decoded length can be compared with the length of the file: the libraries
end early and without an error where a header declares, or lets them estimate, too short a length.
"""

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import NoReturn

import numpy as np

from app.audio import sniff
from app.audio.containers.extent import Extent
from app.audio.containers.survey import survey, untagged
from app.audio.ffmpeg import contents, open_av, open_parts
from app.audio.files import Clock, Samples, Source, open_soundfile
from app.audio.report import missing_seconds, warnings_of
from app.audio.track import DecodedTrack, decode_track
from app.errors import AudioError, TooLarge

MIN_SECONDS = 0.1  # shorter clips give the encoder no whole frame; they are padded
MOST_TRACKS = 8  # decoded at most to find one that is not silent
FORMATS = "wav, flac, ogg, opus, mp3, m4a, mp4 or webm"
# Usual suffixes of the files that the libraries here read
SUFFIXES = frozenset(
    {
        ".wav", ".wave", ".flac", ".ogg", ".oga", ".opus", ".spx", ".mp3", ".mp2", ".mpga", ".m4a", ".m4b", ".mp4",
        ".m4v", ".mov", ".qt", ".3gp", ".3g2", ".webm", ".weba", ".mka", ".mkv", ".aac", ".adts", ".aif", ".aiff",
        ".aifc", ".amr", ".awb", ".caf", ".wma", ".wmv", ".asf", ".au", ".snd", ".w64", ".rf64", ".avi", ".flv",
        ".mpg", ".mpeg", ".ts", ".m2ts", ".mts",
    }
)  # fmt: skip


@dataclass(frozen=True)
class Limits:
    """``max_seconds`` of sound, ``max_bytes`` of file, and seconds of CPU time that decoding one may take."""

    max_seconds: float
    max_bytes: int
    max_cpu_seconds: float = 10.0


@dataclass(frozen=True)
class Receipt:
    """A report on one decoded recording. Lengths in seconds; ``peak``: 1.0 is full scale.

    ``clipped``: share of samples at full scale, in the channel that has most of them. ``silent``: no channel is louder
    than -60 dBFS for a tenth of a second. ``track``: the one that was used, of ``tracks``.
    """

    container: str
    codec: str
    sample_rate: int
    channels: int
    seconds: float
    seconds_used: float
    peak: float
    rms_dbfs: float
    clipped: float
    silent: bool
    warnings: list[str]
    track: int = 1
    tracks: int = 1


@dataclass(frozen=True)
class Recording:
    """``samples`` float32 [n], mono, at ``sample_rate`` Hz; ``sha256`` names exactly these samples."""

    samples: Samples
    sample_rate: int
    receipt: Receipt
    sha256: str


def decode(data: bytes, *, rate: int, limits: Limits, filename: str | None = None) -> Recording:
    """Decode a recording of any rate and channel count to mono at ``rate`` Hz.

    Raises TooLarge beyond the limits and AudioError for what is not audio, or holds none.
    """
    named = f" ({filename[:80]!r})" if filename else ""
    if not data:
        raise AudioError(f"The audio file{named} is empty; send a recording as {FORMATS}.")
    if len(data) > limits.max_bytes:
        raise TooLarge(f"The audio file{named} exceeds {limits.max_bytes >> 20} MB; send less, or a compressed format.")
    clock = Clock(limits.max_cpu_seconds, named)
    data = untagged(data, clock.tick)
    if sniff.encrypted(data):
        raise AudioError(f"The file{named} is encrypted against copies (DRM) and cannot be decoded; send it without.")
    extent = survey(data, clock.tick)
    decoded = _decode_best(data[: extent.end] if extent else data, extent, rate, limits, clock, named)
    if decoded is None:
        _refuse(data, extent, clock, named)
    warnings = warnings_of(data, extent, decoded, clock.tick)
    receipt = _receipt(decoded, warnings)
    mono = _pad(decoded.mono, rate, warnings)
    digest = hashlib.sha256(f"{rate}:".encode())
    digest.update(np.ascontiguousarray(mono).data)
    return Recording(mono, rate, receipt, digest.hexdigest())


def declared_seconds(data: bytes, *, limits: Limits, filename: str | None = None) -> float:
    """The length of a recording in seconds by its container's structure; 0 where that has none. Decodes nothing.

    Raises TooLarge when the survey takes too long.
    """
    clock = Clock(limits.max_cpu_seconds, f" ({filename[:80]!r})" if filename else "")
    extent = survey(untagged(data, clock.tick), clock.tick)
    return extent.seconds or 0.0 if extent else 0.0


def _decode_best(
    data: bytes, extent: Extent | None, rate: int, limits: Limits, clock: Clock, named: str
) -> DecodedTrack | None:
    """The track as decoded by the first library that reads all of the file, else by the one that reads most of it."""
    if extent and extent.plain and extent.seconds == 0:
        return None  # metadata alone, which FFmpeg would take for samples
    best: DecodedTrack | None = None
    whole = not (extent and extent.cut)
    decode_one = partial(decode_track, rate=rate, max_seconds=limits.max_seconds, clock=clock, named=named, whole=whole)
    for tracks in _readers(data, extent, clock):
        found = _first_audible(decode_one, tracks)
        if found and (best is None or found.seconds > best.seconds):
            best = found
        if best and not missing_seconds(extent, best):
            break
    return best


def _readers(data: bytes, extent: Extent | None, clock: Clock) -> Iterator[Iterator[Callable[[], Source | None]]]:
    """The libraries in the order in which they are tried, each as functions that open its tracks."""
    parts = extent.parts if extent else ()
    opener = partial(open_parts, data, parts, clock) if len(parts) > 1 else partial(open_av, data, clock)
    by_av = (partial(opener, choice) for choice in range(MOST_TRACKS))
    by_soundfile = iter([partial(open_soundfile, data, clock)])
    if extent and extent.plain:
        yield by_soundfile
        yield by_av
    else:
        yield by_av
        if extent and extent.name in ("FLAC", "Ogg") and len(parts) < 2:
            yield by_soundfile


def _first_audible(
    decode_one: Callable[[Callable[[], Source | None]], DecodedTrack | None],
    tracks: Iterator[Callable[[], Source | None]],
) -> DecodedTrack | None:
    """The first track that is not silent, else the first."""
    first: DecodedTrack | None = None
    for track in tracks:
        decoded = decode_one(track)
        if decoded is None:
            break  # those that can be decoded come first
        if decoded.seconds and not decoded.silent:
            return decoded
        first = first or (decoded if decoded.seconds else None)
        if decoded.source.tracks == 1:
            break
    return first


def _refuse(data: bytes, extent: Extent | None, clock: Clock, named: str) -> NoReturn:
    """Raises AudioError that names the kind of the file, as far as it is recognised."""
    name = sniff.recognised(data)
    if name:
        raise AudioError(f"The file{named} is not audio that can be read: it is {name}; send {FORMATS}.")
    if extent and (why := sniff.cut_words(extent)):
        raise AudioError(f"The audio file{named} holds no samples that can be read: it is {why}.")
    if extent and extent.seconds == 0:
        raise AudioError(f"The audio file{named} holds no samples: its {extent.name} header declares none.")
    if held := contents(data, clock):
        raise AudioError(f"The file{named} {held}; send {FORMATS}.")
    if extent:
        raise AudioError(f"The audio file{named} holds no samples that can be read; it may be damaged. Send it again.")
    raise AudioError(f"The file{named} is not audio that can be read: {sniff.raw_words(len(data))}. Or send {FORMATS}.")


def _receipt(decoded: DecodedTrack, warnings: list[str]) -> Receipt:
    source, seconds = decoded.source, round(decoded.seconds, 3)
    return Receipt(
        container=source.container,
        codec=source.codec,
        sample_rate=decoded.sample_rate,
        channels=decoded.channels,
        seconds=seconds,
        seconds_used=seconds,
        peak=round(max(one.peak for one in decoded.verdicts), 4),
        rms_dbfs=round(decoded.rms_dbfs, 1),
        clipped=round(max(one.clipped for one in decoded.verdicts), 5),
        silent=decoded.silent,
        warnings=warnings,
        track=source.track,
        tracks=source.tracks,
    )


def _pad(mono: Samples, rate: int, warnings: list[str]) -> Samples:
    """Zeros up to the shortest clip that the encoder takes."""
    missing = int(MIN_SECONDS * rate) - len(mono)
    if missing <= 0:
        return mono
    warnings.append(f"Padded with silence from {len(mono) / rate:.3f} s to {MIN_SECONDS} s.")
    return np.pad(mono, (0, missing))
