"""The libraries that read recordings: bytes to blocks of samples.

soundfile reads uncompressed containers (wav, aiff, au, caf); PyAV, that is FFmpeg, all others (`app/audio/ffmpeg.py`).
Only bytes are ever opened, never a path or URL.
"""

import io
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from app.errors import TooLarge

if TYPE_CHECKING:
    from typing_extensions import Buffer

Samples = npt.NDArray[np.float32]
Block = tuple[int, Samples]  # sample rate in Hz, float32 [samples, channels]; both may change inside a stream

BLOCK_SECONDS = 1  # decoded at a time where a file can be damaged inside; what lies before the block is kept
BLOCK_SAMPLES = 1 << 20  # of all channels together, in one block at most
LOWEST_RATE, HIGHEST_RATE = 1_000, 768_000  # Hz
MOST_CHANNELS = 256
UNKNOWN_FRAMES = 1 << 62  # libsndfile: a header without a length counts more
# libsndfile knows many more formats; their readers are old, rarely used code, which no upload reaches
SOUNDFILE_FORMATS = frozenset({"WAV", "WAVEX", "RF64", "W64", "AIFF", "AU", "CAF", "FLAC", "OGG", "MP3"})
SOUNDFILE_CODECS = frozenset(
    {"PCM_S8", "PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE", "ULAW", "ALAW"}
    | {"VORBIS", "OPUS", "MPEG_LAYER_II", "MPEG_LAYER_III"}
)
FLOATING = frozenset({"FLOAT", "DOUBLE"})  # codecs whose full scale is a convention
# The largest sample of codecs that reach less than 16 bits do, 1.0 being full scale
FULL_SCALES = {"PCM_U8": 1 - 2.0**-7, "PCM_S8": 1 - 2.0**-7, "ULAW": 32124 / 32768, "ALAW": 32256 / 32768}
FULL_SCALE = 1 - 2.0**-15


@dataclass
class Troubles:
    """Errors inside a stream, counted while its blocks are read.

    ``packets`` that could not be decoded, ``at_end`` of them after the last that could; ``broken``: the container's
    structure is; ``foreign``: bytes that stand between packets and belong to none.
    """

    packets: int = 0
    at_end: int = 0
    broken: bool = False
    foreign: int = 0

    def failed(self) -> None:
        self.packets += 1
        self.at_end += 1

    def add(self, later: "Troubles") -> None:
        """Those of a stream that follows this one."""
        self.at_end = later.at_end + (self.at_end if later.packets == later.at_end else 0)
        self.packets += later.packets
        self.broken = self.broken or later.broken
        self.foreign += later.foreign

    @property
    def only_at_end(self) -> bool:
        return bool(self.packets) and self.packets == self.at_end and not self.broken


@dataclass(frozen=True)
class Source:
    """One decoded track: its blocks, and the container's ``declared`` seconds where a header holds them.

    ``track`` of ``tracks``, from 1; ``name``: of the track, where it has one.
    """

    container: str
    codec: str
    sample_rate: int
    channels: int
    declared: float | None
    blocks: Iterator[Block]
    track: int = 1
    tracks: int = 1
    name: str = ""
    troubles: Troubles = field(default_factory=Troubles)

    @property
    def floating(self) -> bool:
        return self.codec in FLOATING or self.codec.startswith("pcm_f")

    @property
    def full_scale(self) -> float:
        """At or beyond it a sample counts as clipped."""
        return FULL_SCALES.get(self.codec, FULL_SCALE)


class Clock:
    """A limit on the CPU time of this thread; waiting on a busy machine does not count.

    It is checked at each read and each block, so a demuxer that searches for ever ends.
    """

    def __init__(self, seconds: float, named: str) -> None:
        self._end = time.thread_time() + seconds
        self._ticks = 0
        self._message = f"The audio{named} takes longer than {seconds:g} s to decode; convert it to wav or flac."

    @property
    def over(self) -> bool:
        return time.thread_time() > self._end

    def check(self) -> None:
        """Raises TooLarge once the time is over."""
        if self.over:
            raise TooLarge(self._message)

    def tick(self) -> None:
        """`check` at every 64th call, for loops whose turns take less time than reading the clock."""
        self._ticks += 1
        if not self._ticks % 64:
            self.check()


class ClockedBytes(io.BytesIO):
    """A file in memory that seems to end once the time is over.

    A broken header may ask for a place before the start; the place then stays the same.
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
    """The recording as libsndfile reads it; None where it cannot, or where the format is not among the allowed."""
    import soundfile

    try:
        file = soundfile.SoundFile(ClockedBytes(data, clock))
    except (RuntimeError, ValueError, TypeError):
        return None
    rate, channels = file.samplerate, file.channels
    allowed = file.format in SOUNDFILE_FORMATS and file.subtype in SOUNDFILE_CODECS
    if not allowed or not LOWEST_RATE <= rate <= HIGHEST_RATE or not 0 < channels <= MOST_CHANNELS:
        file.close()
        return None
    # libsndfile reads whole blocks of these as they lie in the file, where it else asks for 8 KB at a time
    plain = file.subtype == "PCM_16" and file.format != "FLAC"
    size = max(1, BLOCK_SAMPLES // channels if plain else min(rate * BLOCK_SECONDS, BLOCK_SAMPLES // channels))
    troubles = Troubles()

    def blocks() -> Iterator[Block]:
        with file:
            try:
                while len(block := file.read(size, dtype="int16" if plain else "float32", always_2d=True)):
                    yield rate, block * np.float32(2**-15) if plain else block
            except (RuntimeError, ValueError, OSError):  # what soundfile raises for broken data
                troubles.broken = True

    declared = file.frames / rate if file.frames < UNKNOWN_FRAMES else None
    return Source(file.format, file.subtype, rate, channels, declared, blocks(), troubles=troubles)
