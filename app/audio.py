"""Bytes to mono float32 samples at the model's rate, with a receipt of what was heard.

soundfile reads wav, flac, ogg, opus and mp3; PyAV what browsers and phones record (m4a, mp4, webm …).
Only bytes are ever opened, never a path or URL, and decoding stops where the limit is passed.
"""

import hashlib
import io
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from app.errors import AudioError, TooLarge

Samples = npt.NDArray[np.float32]

MIN_SECONDS = 0.1  # shorter clips give the encoder no whole frame; they are padded
SILENT_DBFS = -60.0  # RMS below it counts as silence
FULL_SCALE = 1.0 - 2.0**-15  # the largest 16-bit sample; at or beyond it counts as clipped
BLOCKS_PER_SECOND = 4  # decoded at a time; of a damaged file, what lies before the block is kept
FORMATS = "wav, flac, ogg, opus, mp3, m4a, mp4 or webm"


@dataclass(frozen=True)
class Limits:
    """``max_seconds`` of sound and ``max_bytes`` of file."""

    max_seconds: float
    max_bytes: int


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


@dataclass(frozen=True)
class _Source:
    """A decoded stream: ``blocks`` of float32 [samples, channels] at the source's rate."""

    container: str
    codec: str
    sample_rate: int
    channels: int
    blocks: Iterator[Samples]


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
    source, samples = _decode(data, limits, named, warnings)
    mono = samples.mean(axis=1, dtype=np.float32)
    receipt = _receipt(source, samples, mono, warnings)
    mono = _pad(_resample(mono, source.sample_rate, rate), rate, warnings)
    digest = hashlib.sha256(f"{rate}:".encode() + mono.tobytes()).hexdigest()
    return Recording(mono, rate, receipt, digest)


def _decode(data: bytes, limits: Limits, named: str, warnings: list[str]) -> tuple[_Source, Samples]:
    """The first reader that finds samples [n, channels]; PyAV bears more damage than soundfile."""
    understood = False
    for opened in (_open_soundfile, _open_av):
        if source := opened(data):
            understood = True
            samples = _collect(source, limits, named, warnings)
            if len(samples):
                return source, samples
    if understood:
        raise AudioError(f"The audio file{named} holds no samples; it may have been cut off. Send it again.")
    raise AudioError(f"The file{named} is not audio that can be read; send {FORMATS}.")


def _collect(source: _Source, limits: Limits, named: str, warnings: list[str]) -> Samples:
    """All samples [n, channels] of a source; stops once more than the allowed seconds have come."""
    blocks: list[Samples] = [np.zeros((0, source.channels), np.float32)]
    total = 0
    try:
        for block in source.blocks:
            blocks.append(block)
            total += len(block)
            if total > limits.max_seconds * source.sample_rate:
                raise TooLarge(f"The audio{named} lasts longer than {limits.max_seconds:g} s; send it in parts.")
    except (RuntimeError, ValueError, OSError):  # what soundfile and PyAV raise for broken data
        warnings[:] = ["The file is damaged; what could be read of it was used."]
    samples = np.concatenate(blocks)
    if not np.isfinite(samples).all():
        raise AudioError(f"The audio{named} holds samples that are not numbers (NaN or infinite); export it again.")
    return samples


def _receipt(source: _Source, samples: Samples, mono: Samples, warnings: list[str]) -> Receipt:
    peak = float(np.abs(samples).max())
    rms = float(np.sqrt(np.mean(np.square(mono, dtype=np.float64))))
    rms_dbfs = 20 * float(np.log10(max(rms, 1e-10)))
    clipped = float((np.abs(samples) >= FULL_SCALE).mean())
    if rms_dbfs < SILENT_DBFS:
        warnings.append("The recording is silent.")
    if clipped > 0.001:
        warnings.append(f"{clipped:.1%} of the samples are clipped; record at a lower level.")
    seconds = len(samples) / source.sample_rate
    return Receipt(
        container=source.container,
        codec=source.codec,
        sample_rate=source.sample_rate,
        channels=source.channels,
        seconds=round(seconds, 3),
        seconds_used=round(seconds, 3),
        peak=round(peak, 4),
        rms_dbfs=round(rms_dbfs, 1),
        clipped=round(clipped, 5),
        silent=rms_dbfs < SILENT_DBFS,
        warnings=warnings,
    )


def _resample(mono: Samples, source_rate: int, rate: int) -> Samples:
    if source_rate == rate:
        return mono
    import soxr

    resampled: Samples = soxr.resample(mono, source_rate, rate).astype(np.float32)
    return resampled


def _pad(mono: Samples, rate: int, warnings: list[str]) -> Samples:
    """Zeros up to the shortest clip that the encoder takes."""
    missing = int(MIN_SECONDS * rate) - len(mono)
    if missing <= 0:
        return mono
    warnings.append(f"Padded with silence from {len(mono) / rate:.3f} s to {MIN_SECONDS} s.")
    return np.pad(mono, (0, missing))


def _open_soundfile(data: bytes) -> _Source | None:
    import soundfile

    try:
        file = soundfile.SoundFile(io.BytesIO(data))
    except (RuntimeError, ValueError, TypeError):
        return None
    if not 0 < file.samplerate <= 768_000:
        return None

    def blocks() -> Iterator[Samples]:
        with file:
            while len(
                block := file.read(max(1, file.samplerate // BLOCKS_PER_SECOND), dtype="float32", always_2d=True)
            ):
                yield block

    return _Source(file.format, file.subtype, file.samplerate, file.channels, blocks())


def _open_av(data: bytes) -> _Source | None:
    import av

    try:
        container = av.open(io.BytesIO(data), "r", metadata_errors="ignore")
        stream = container.streams.audio[0]
        rate, channels = stream.rate or 0, stream.channels
        codec = stream.codec_context.name
    except (av.FFmpegError, IndexError, ValueError, OSError, AttributeError):  # the last: a codec FFmpeg lacks
        return None
    if not 0 < rate <= 768_000 or not channels:
        container.close()
        return None

    def blocks() -> Iterator[Samples]:
        to_float = av.AudioResampler(format="fltp")
        with container:
            for frame in container.decode(stream):
                for converted in to_float.resample(frame):
                    yield converted.to_ndarray().T

    return _Source(container.format.name, codec, rate, channels, blocks())
