"""Bytes to mono float32 samples at the model's rate, with a receipt of what was heard.

Blocks are mixed and resampled as they come, so memory follows the limit, whatever rate and channels a small
file unfolds to.
"""

import hashlib
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from app.audio.files import BLOCK_SAMPLES, Clock, Samples, Source, open_av, open_soundfile
from app.errors import AudioError, TooLarge

MIN_SECONDS = 0.1  # shorter clips give the encoder no whole frame; they are padded
SILENT_DBFS = -60.0  # RMS below it counts as silence
FULL_SCALE = 1.0 - 2.0**-15  # the largest 16-bit sample; at or beyond it counts as clipped
LOUDEST = 1e10  # beyond any integer scale exported as float; more is damage, and would overflow
FORMATS = "wav, flac, ogg, opus, mp3, m4a, mp4 or webm"
SUFFIXES = frozenset(
    {".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".m4a", ".mp4", ".webm", ".aac", ".aif", ".aiff", ".amr"}
)  # of files that are taken for recordings


@dataclass(frozen=True)
class Limits:
    """``max_seconds`` of sound, ``max_bytes`` of file, and seconds of CPU time that decoding one may take."""

    max_seconds: float
    max_bytes: int
    max_cpu_seconds: float = 10.0


@dataclass(frozen=True)
class Receipt:
    """What the server heard. ``clipped``: share of source samples at full scale. Levels: 1.0 is full scale."""

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


@dataclass(frozen=True)
class Recording:
    """``samples`` float32 [n], mono, at ``sample_rate`` Hz; ``sha256`` names exactly these samples."""

    samples: Samples
    sample_rate: int
    receipt: Receipt
    sha256: str


@dataclass
class _Levels:
    """Sums over the blocks heard: ``frames`` counts instants, ``clipped`` single samples."""

    frames: int = 0
    peak: float = 0.0
    squares: float = 0.0
    clipped: int = 0

    def add(self, magnitudes: Samples, mono: Samples, peak: float) -> None:
        self.frames += len(magnitudes)
        self.peak = max(self.peak, peak)
        self.squares += float(np.square(mono, dtype=np.float64).sum())
        self.clipped += int((magnitudes >= FULL_SCALE).sum())


def decode(data: bytes, *, rate: int, limits: Limits, filename: str | None = None) -> Recording:
    """Decode a recording of any rate and channel count to mono at ``rate`` Hz.

    Raises TooLarge beyond the limits and AudioError for what is not audio, or holds none.
    """
    named = f" ({filename[:80]!r})" if filename else ""
    if not data:
        raise AudioError(f"The audio file{named} is empty; send a recording as {FORMATS}.")
    if len(data) > limits.max_bytes:
        raise TooLarge(f"The audio file{named} exceeds {limits.max_bytes >> 20} MB; send less, or a compressed format.")
    warnings: list[str] = []
    source, mono, levels = _decode(data, rate, limits, named, warnings)
    if not warnings and _cut_off(data, source, levels.frames / source.sample_rate):
        warnings.append("The file seems cut off; what is there was used.")
    receipt = _receipt(source, levels, warnings)
    mono = _pad(mono, rate, warnings)
    digest = hashlib.sha256(f"{rate}:".encode())
    digest.update(np.ascontiguousarray(mono).data)
    return Recording(mono, rate, receipt, digest.hexdigest())


def _decode(data: bytes, rate: int, limits: Limits, named: str, warnings: list[str]) -> tuple[Source, Samples, _Levels]:
    """The first reader that finds samples; PyAV bears more damage than soundfile."""
    understood = False
    clock = Clock(limits.max_cpu_seconds, named)
    for opened in (open_soundfile, open_av):
        source = opened(data, clock)
        clock.check()  # the libraries turn an error inside a read into one of their own
        if source:
            understood = True
            mono, levels = _collect(source, rate, limits, clock, named, warnings)
            if levels.frames:
                return source, mono, levels
    if understood:
        raise AudioError(f"The audio file{named} holds no samples; it may have been cut off. Send it again.")
    raise AudioError(f"The file{named} is not audio that can be read; send {FORMATS}.")


def _collect(
    source: Source, rate: int, limits: Limits, clock: Clock, named: str, warnings: list[str]
) -> tuple[Samples, _Levels]:
    """Mono samples [n] at ``rate`` Hz; stops once more than the allowed seconds have come."""
    too_long = TooLarge(f"The audio{named} lasts longer than {limits.max_seconds:g} s; send it in parts.")
    if (source.declared or 0) > limits.max_seconds:
        raise too_long
    resample = _resampler(source.sample_rate, rate)
    levels, parts = _Levels(), []
    for block in _joined(_undamaged(source.blocks, warnings)):
        clock.check()
        magnitudes = np.abs(block)
        peak = float(magnitudes.max(initial=0))
        if not peak <= LOUDEST:  # NaN compares false
            raise AudioError(f"The audio{named} holds samples that are not numbers (NaN or infinite); export it again.")
        mono = block.mean(axis=1, dtype=np.float32) if source.channels > 1 else block[:, 0]
        levels.add(magnitudes, mono, peak)
        if levels.frames > limits.max_seconds * source.sample_rate:
            raise too_long
        parts.append(resample(mono, False))
    clock.check()
    return np.concatenate([*parts, resample(np.zeros(0, np.float32), True)]), levels


def _joined(blocks: Iterator[Samples]) -> Iterator[Samples]:
    """Few large blocks for many small: each operation on one may cost a turn at the interpreter's lock."""
    parts: list[Samples] = []
    size = 0
    for block in blocks:
        if parts and size + block.size > BLOCK_SAMPLES:
            yield np.concatenate(parts)
            parts, size = [], 0
        parts.append(block)
        size += block.size
    if parts:
        yield np.concatenate(parts)


def _undamaged(blocks: Iterator[Samples], warnings: list[str]) -> Iterator[Samples]:
    """The blocks before the first that cannot be read."""
    try:
        yield from blocks
    except (RuntimeError, ValueError, OSError):  # what soundfile and PyAV raise for broken data
        warnings[:] = ["The file is damaged; what could be read of it was used."]


def _cut_off(data: bytes, source: Source, seconds: float) -> bool:
    """Whether the file ends before its own header, or the last Ogg page, says it does."""
    if data[:4] == b"RIFF":
        return len(data) < int.from_bytes(data[4:8], "little") < 0x7FFF_0000  # beyond: length left open
    if data[:4] == b"OggS":
        last = data[data.rfind(b"OggS") :]
        lacing = last[27 : 27 + last[26]] if len(last) > 26 else b""
        return not lacing or not last[5] & 4 or len(last) < 27 + len(lacing) + sum(lacing)  # 4: end of stream
    return seconds < 0.95 * (source.declared or 0) - 0.1


def _receipt(source: Source, levels: _Levels, warnings: list[str]) -> Receipt:
    rms_dbfs = 10 * math.log10(max(levels.squares / levels.frames, 1e-20))
    clipped = levels.clipped / (levels.frames * source.channels)
    if rms_dbfs < SILENT_DBFS:
        warnings.append("The recording is silent.")
    if clipped > 0.001:
        warnings.append(f"{clipped:.1%} of the samples are clipped; record at a lower level.")
    seconds = round(levels.frames / source.sample_rate, 3)
    return Receipt(
        container=source.container,
        codec=source.codec,
        sample_rate=source.sample_rate,
        channels=source.channels,
        seconds=seconds,
        seconds_used=seconds,
        peak=round(levels.peak, 4),
        rms_dbfs=round(rms_dbfs, 1),
        clipped=round(clipped, 5),
        silent=rms_dbfs < SILENT_DBFS,
        warnings=warnings,
    )


def _resampler(source_rate: int, rate: int) -> Callable[[Samples, bool], Samples]:
    """A function of (mono block [n], whether it is the last) to what is ready at ``rate`` Hz."""
    if source_rate == rate:
        return lambda block, last: block
    import soxr

    stream = soxr.ResampleStream(source_rate, rate, 1, dtype="float32", quality="HQ")
    return lambda block, last: stream.resample_chunk(block, last=last)


def _pad(mono: Samples, rate: int, warnings: list[str]) -> Samples:
    """Zeros up to the shortest clip that the encoder takes."""
    missing = int(MIN_SECONDS * rate) - len(mono)
    if missing <= 0:
        return mono
    warnings.append(f"Padded with silence from {len(mono) / rate:.3f} s to {MIN_SECONDS} s.")
    return np.pad(mono, (0, missing))
