"""Recordings that tests make: samples to bytes by soundfile's and FFmpeg's encoders, and headers by hand."""

import io
import struct
import tempfile
from pathlib import Path

import av
import numpy as np
import soundfile

from app.audio.containers.frames import mpeg_frame
from app.audio.containers.survey import untagged

RATE = 16_000
_RATES = {"wmav1": 64_000, "wmav2": 64_000}  # bits per second, for encoders that choose none


def tone(seconds: float = 1.0, rate: int = 48_000, frequency: float = 440.0) -> np.ndarray:
    return (0.3 * np.sin(2 * np.pi * frequency * np.arange(int(seconds * rate)) / rate)).astype(np.float32)


def noise(seconds: float = 1.0, rate: int = 16_000, level: float = 0.1, seed: int = 0) -> np.ndarray:
    return (level * np.random.default_rng(seed).standard_normal(int(seconds * rate))).astype(np.float32)


def by_soundfile(samples: np.ndarray, rate: int, container: str = "WAV", codec: str = "PCM_16", **more: str) -> bytes:
    stream = io.BytesIO()
    soundfile.write(stream, samples, rate, format=container, subtype=codec, **more)
    return stream.getvalue()


def by_av(
    samples: np.ndarray, container: str, codec: str, rate: int = 48_000, layout: str | None = None, **options: str
) -> bytes:
    """``samples`` [n] or [n, channels]; ``options`` go to the muxer."""
    return tracks_by_av([samples], container, codec, rate, layout, options=options)


def tracks_by_av(
    tracks: list[np.ndarray],
    container: str,
    codec: str,
    rate: int = 48_000,
    layout: str | None = None,
    *,
    default: int | None = None,
    options: dict[str, str] | None = None,
    titles: tuple[str, ...] = (),
) -> bytes:
    """A container with one audio track for each array; ``default`` marks one of them, and only that."""
    target = tempfile.NamedTemporaryFile() if "faststart" in str(options) else io.BytesIO()  # noqa: SIM115
    with av.open(
        target.name if hasattr(target, "name") else target, "w", format=container, options=options or {}
    ) as file:
        streams = []
        for number, samples in enumerate(tracks):
            channels = 1 if samples.ndim == 1 else samples.shape[1]
            named = layout or {1: "mono", 2: "stereo"}.get(channels, f"{channels} channels")
            stream = file.add_stream(codec, rate=rate, layout=named)
            if codec in _RATES:
                stream.bit_rate = _RATES[codec]
            if codec == "vorbis":
                stream.codec_context.options = {"strict": "experimental"}
            if default is not None:
                stream.disposition = av.stream.Disposition.default if number == default else av.stream.Disposition(0)
            if number < len(titles):
                stream.metadata["title"] = titles[number]
            streams.append((stream, _frames(samples, channels, rate, named, stream.format.name)))
        for stream, frames in streams:
            for frame in frames:
                file.mux(stream.encode(frame))
            file.mux(stream.encode(None))
    return Path(target.name).read_bytes() if hasattr(target, "name") else target.getvalue()


def _frames(samples: np.ndarray, channels: int, rate: int, layout: str, wanted: str):
    convert = av.AudioResampler(format=wanted, layout=layout, rate=rate)
    packed = np.ascontiguousarray(samples.reshape(-1, channels), np.float32)
    for start in range(0, len(packed), 960):
        block = packed[start : start + 960].reshape(1, -1)
        frame = av.AudioFrame.from_ndarray(block, format="flt", layout=layout)
        frame.sample_rate, frame.pts = rate, start
        yield from convert.resample(frame)


def wav_header(
    size: int, rate: int = RATE, *, riff: int | None = None, channels: int = 1, tag: int = 1, bits: int = 16
) -> bytes:
    """A RIFF header that declares ``size`` bytes of samples."""
    align = channels * bits // 8
    form = struct.pack("<HHIIHH", tag, channels, rate, rate * align, align, bits)
    whole = min(36 + size, 0xFFFF_FFFF) if riff is None else riff
    return (
        b"RIFF"
        + struct.pack("<I", whole)
        + b"WAVEfmt "
        + struct.pack("<I", 16)
        + form
        + b"data"
        + struct.pack("<I", size)
    )


def pcm16(samples: np.ndarray) -> bytes:
    return (samples * 32767).astype("<i2").tobytes()


def id3v2(size: int = 300) -> bytes:
    return b"ID3\4\0\0" + bytes([0, 0, size >> 7, size & 127]) + b"TXXX" + b"x" * (size - 4)


def id3v1() -> bytes:
    return b"TAG" + b"a title".ljust(125, b"\0")


def ape_tag() -> bytes:
    item = struct.pack("<II", 3, 0) + b"Title\0abc"
    shape = struct.pack("<III", 2000, len(item) + 32, 1)
    return (
        b"APETAGEX"
        + shape
        + struct.pack("<I", 0xA000_0000)
        + bytes(8)
        + item
        + b"APETAGEX"
        + shape
        + struct.pack("<I", 0x8000_0000)
        + bytes(8)
    )


def without_total(flac: bytes) -> bytes:
    """FLAC as an encoder writes it into a pipe: neither the number of samples nor their checksum is known."""
    return flac[:21] + bytes([flac[21] & 0xF0]) + bytes(4) + bytes(16) + flac[42:]


def without_xing(mp3: bytes) -> bytes:
    """MP3 without the frame that tells its length."""
    mp3 = untagged(mp3)
    frame = mpeg_frame(mp3, 0)
    assert frame
    assert b"Xing" in mp3[: frame[0]] or b"Info" in mp3[: frame[0]]
    return mp3[frame[0] :]
