"""The libraries that read recordings: bytes to blocks of samples.

soundfile reads wav, flac, ogg, opus and mp3; PyAV what browsers and phones record (m4a, mp4, webm …).
Only bytes are ever opened, never a path or URL: playlists and session descriptions, which would make
FFmpeg open what they name, are not among the formats.
"""

import io
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from app.errors import TooLarge

if TYPE_CHECKING:
    from typing_extensions import Buffer

Samples = npt.NDArray[np.float32]

BLOCK_SECONDS = 1  # decoded at a time where a file can be damaged inside; what lies before the block is kept
BLOCK_SAMPLES = 1 << 20  # of all channels together, in one block at most
HIGHEST_RATE = 768_000  # Hz
UNKNOWN_FRAMES = 1 << 62  # libsndfile: a header without a length counts more
DEMUXERS = "mov,matroska,aac,amr,mp3,ogg,flac,wav,w64,aiff,caf,asf,avi,flv,mpeg,mpegts"  # FFmpeg's names


@dataclass(frozen=True)
class Source:
    """A decoded stream: ``blocks`` of float32 [samples, channels]; ``declared`` seconds where a header tells."""

    container: str
    codec: str
    sample_rate: int
    channels: int
    declared: float | None
    blocks: Iterator[Samples]


class Clock:
    """CPU time of this thread, so that a busy machine refuses nobody.

    Asked at each read and each block: a demuxer that searches for ever ends here.
    """

    def __init__(self, seconds: float, named: str) -> None:
        self._end = time.thread_time() + seconds
        self._message = f"The audio{named} takes longer than {seconds:g} s to decode; convert it to wav or flac."

    @property
    def over(self) -> bool:
        return time.thread_time() > self._end

    def check(self) -> None:
        """Raises TooLarge once the time is over."""
        if self.over:
            raise TooLarge(self._message)


class _Bytes(io.BytesIO):
    """A broken header may ask for a place before the start: the reader is told that nothing moved.

    Once the time is over the file seems to end.
    """

    def __init__(self, data: bytes, clock: Clock) -> None:
        super().__init__(data)
        self._clock = clock

    def read(self, size: int | None = -1, /) -> bytes:
        return b"" if self._clock.over else super().read(size)

    def readinto(self, buffer: "Buffer", /) -> int:
        return 0 if self._clock.over else super().readinto(buffer)

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        try:
            return super().seek(offset, whence)
        except (ValueError, OverflowError):
            return self.tell()


def open_soundfile(data: bytes, clock: Clock) -> Source | None:
    import soundfile

    try:
        file = soundfile.SoundFile(_Bytes(data, clock))
    except (RuntimeError, ValueError, TypeError):
        return None
    rate, channels = file.samplerate, file.channels
    if not 0 < rate <= HIGHEST_RATE:
        file.close()
        return None
    # libsndfile reads whole blocks of these as they lie in the file, where it else asks for 8 KB at a time
    plain = file.subtype == "PCM_16" and file.format != "FLAC"
    size = max(1, BLOCK_SAMPLES // channels if plain else min(rate * BLOCK_SECONDS, BLOCK_SAMPLES // channels))

    def blocks() -> Iterator[Samples]:
        with file:
            while len(block := file.read(size, dtype="int16" if plain else "float32", always_2d=True)):
                yield block * np.float32(2**-15) if plain else block

    declared = file.frames / rate if file.frames < UNKNOWN_FRAMES else None
    return Source(file.format, file.subtype, rate, channels, declared, blocks())


def open_av(data: bytes, clock: Clock) -> Source | None:
    import av

    try:
        # a demuxer that follows names (concat, hls, sdp, dash) is refused, and so is every protocol
        only = {"format_whitelist": DEMUXERS, "protocol_whitelist": "none"}
        container = av.open(_Bytes(data, clock), "r", metadata_errors="ignore", container_options=only)
        stream = container.streams.audio[0]
        rate, channels = stream.rate or 0, stream.channels
        codec, name = stream.codec_context.name, container.format.name
    except (av.FFmpegError, IndexError, ValueError, OSError, AttributeError):  # the last: a codec FFmpeg lacks
        return None
    if not 0 < rate <= HIGHEST_RATE or not channels:
        container.close()
        return None

    def blocks() -> Iterator[Samples]:
        to_float = av.AudioResampler(format="fltp", rate=rate)  # a frame may differ from its header
        with container:
            try:
                for frame in container.decode(stream):
                    for converted in to_float.resample(frame):
                        yield converted.to_ndarray().T
            except av.FFmpegError as error:  # some of its kinds are no OSError, ValueError or RuntimeError
                raise ValueError("broken stream") from error

    declared = float(stream.duration * stream.time_base) if "mp4" in name and stream.duration else None
    return Source(name, codec, rate, channels, declared, blocks())
