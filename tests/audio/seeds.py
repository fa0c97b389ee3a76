"""Small recordings of every container and codec that can be made in process, with every number of channels."""

import struct
from dataclasses import dataclass
from functools import lru_cache

import av
import numpy as np
import soundfile

from tests.audio.makers import by_av, by_soundfile, noise

MOST_CHANNELS = 24
RATES = (16_000, 8_000, 48_000, 44_100)  # Hz; the first one that the encoder takes
LAYOUTS = {3: "3.0", 4: "4.0", 5: "5.0", 6: "5.1", 7: "6.1", 8: "7.1", 16: "hexadecagonal", 24: "22.2"}
_PCM = "pcm_s16le pcm_s24le pcm_f32le pcm_f64le pcm_mulaw pcm_alaw pcm_u8"
_BIG = "pcm_s8 pcm_s16be pcm_s24be pcm_s32be pcm_f32be pcm_f64be pcm_mulaw pcm_alaw"
_RIFF = f"{_PCM} pcm_s32le adpcm_ms adpcm_ima_wav adpcm_yamaha g726 libmp3lame mp2 ac3 aac wmav1 wmav2"
_BOXES = "pcm_s16le pcm_s24be pcm_f32le aac alac libmp3lame mp2 ac3 eac3"
BY_AV = {
    "mov": f"{_BOXES} pcm_f64be pcm_s16be pcm_s32be pcm_mulaw pcm_alaw pcm_u8 adpcm_ima_qt",
    "mp4": f"{_BOXES} flac libopus vorbis",
    "ipod": "aac alac",
    "3gp": "libopencore_amrnb aac",
    "matroska": (
        "pcm_s16le pcm_s24le pcm_f32le pcm_f64le pcm_u8 aac flac libopus vorbis libmp3lame mp2 ac3"
        " eac3 alac tta wavpack"
    ),
    "webm": "libopus vorbis",
    "ogg": "libopus vorbis flac",
    "flac": "flac",
    "mp3": "libmp3lame",
    "mp2": "mp2",
    "adts": "aac",
    "amr": "libopencore_amrnb",
    "ac3": "ac3",
    "eac3": "eac3",
    "wav": f"{_RIFF} g722",
    "w64": f"{_PCM} adpcm_ms",
    "avi": _RIFF,
    "asf": "wmav1 wmav2 pcm_s16le libmp3lame ac3 aac adpcm_ms",
    "aiff": f"{_BIG} adpcm_ima_qt",
    "au": _BIG,
    "caf": f"{_BIG} pcm_s16le pcm_f32le alac adpcm_ima_qt libopencore_amrnb flac",
    "flv": "libmp3lame aac nellymoser adpcm_swf pcm_s16le",
    "mpeg": "mp2 libmp3lame ac3",
    "vob": "mp2 ac3 pcm_dvd",
    "mpegts": "aac mp2 libmp3lame ac3 eac3 libopus pcm_bluray",
}
BY_SOUNDFILE = {
    "WAV": "PCM_U8 PCM_16 PCM_24 PCM_32 FLOAT DOUBLE ULAW ALAW",
    "WAVEX": "PCM_16 FLOAT",
    "RF64": "PCM_16 FLOAT",
    "W64": "PCM_16 DOUBLE",
    "AIFF": "PCM_S8 PCM_16 PCM_24 FLOAT ULAW",
    "AU": "PCM_16 FLOAT ALAW",
    "CAF": "PCM_16 FLOAT ULAW",
    "FLAC": "PCM_S8 PCM_16 PCM_24",
    "OGG": "VORBIS OPUS",
    "MP3": "MPEG_LAYER_III",
}
# WAVE tags of codecs that no encoder here writes, with the bytes of extradata that FFmpeg wants of them
TAGS = {0x0A: 46, 0x31: 2, 0x32: 2, 0x45: 2, 0x64: 0, 0xFF: 2, 0x161: 10, 0x162: 18, 0x163: 18, 0x2000: 0, 0x2001: 0}
TAGS |= {0x28AE: 16, 0x5756: 2, 0x674F: 32, 0x6771: 32, 0xA106: 2, 0xA109: 80, 0xF1AC: 34, 0x0130: 16, 0x77A1: 22}


@dataclass(frozen=True)
class Seed:
    """One recording to begin with; ``container`` is in upper case where soundfile writes it, "tag" for `TAGS`."""

    container: str
    codec: str
    channels: int

    def __str__(self) -> str:
        return f"{self.container}/{self.codec}/{self.channels}"


def all_seeds() -> list[Seed]:
    """Every container, codec and number of channels; some combinations do not exist, see `made`."""
    forms = [
        (form, codec) for table in (BY_AV, BY_SOUNDFILE) for form, codecs in table.items() for codec in codecs.split()
    ]
    forms += [("tag", f"{tag:#06x}") for tag in TAGS]
    return [Seed(form, codec, count) for form, codec in forms for count in range(1, MOST_CHANNELS + 1)]


@lru_cache(maxsize=4096)
def made(seed: Seed) -> bytes | None:
    """The recording, a few KB long; None where container or codec cannot hold so many channels."""
    if seed.container == "tag":
        return _tagged(int(seed.codec, 16), seed.channels)
    if seed.container == "flv" and seed.channels > 2:
        return None  # FFmpeg's muxer ends the process
    for rate in RATES:
        samples = _sound(seed.channels, rate)
        try:
            if seed.container in BY_SOUNDFILE:
                return by_soundfile(samples, rate, seed.container, seed.codec)
            return by_av(samples, seed.container, seed.codec, rate, LAYOUTS.get(seed.channels))
        except (av.FFmpegError, soundfile.LibsndfileError, ValueError):
            continue
    return None


def _sound(channels: int, rate: int) -> np.ndarray:
    seconds = min(0.1, max(1_600 / rate, 0.02) / channels * 4)
    return np.column_stack([noise(seconds, rate, seed=index) for index in range(channels)])


def _tagged(tag: int, channels: int) -> bytes:
    """A WAV file of random bytes under ``tag``."""
    draw = np.random.default_rng(tag)
    extra = draw.bytes(TAGS[tag])
    form = struct.pack("<HHIIHHH", tag, channels, 16_000, 4_000, 256, 16, len(extra)) + extra
    body = draw.bytes(2_048)
    chunks = b"fmt " + struct.pack("<I", len(form)) + form + b"data" + struct.pack("<I", len(body)) + body
    return b"RIFF" + struct.pack("<I", 4 + len(chunks)) + b"WAVE" + chunks
