"""What a small file may cost: memory of the process is watched, since decoders do not allocate in Python."""

import io
import struct
import subprocess
import sys
import zlib
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from app.audio.decode import Limits, decode
from app.errors import AudioError, TooLarge
from tests.audio.makers import by_soundfile, pcm16, wav_header

needs_proc = pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="the peak is read from /proc")
PROGRAM = """
import sys
import av, soundfile, soxr
from app.audio.decode import Limits, decode
from app.errors import OvertoneError
data = sys.stdin.buffer.read()
def peak():  # ru_maxrss would also count the process that this one was forked from
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmHWM")) / 1024
decode(bytes.fromhex(sys.argv[1]), rate=16000, limits=Limits(600, 64 << 20))
before = peak()
try: decode(data, rate=16000, limits=Limits(600, 64 << 20))
except OvertoneError as error: assert error.status in (413, 415), error
print(peak() - before)
"""


def megabytes(data: bytes) -> float:
    """By which the peak of a fresh process rises over one decoding, after a short one of the same kind of library."""
    first = by_soundfile(np.full(200, 0.1), 8_000, "FLAC").hex()
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, first], input=data, capture_output=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr[-800:]
    return float(done.stdout)


def picture(side: int) -> bytes:
    """A black PNG of side × side pixels, which takes 3 · side² bytes once it is decoded."""

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    packer = zlib.compressobj(1)
    rows = b"".join(packer.compress(bytes(side * 3 + 1)) for _ in range(side)) + packer.flush()
    head = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def beside(pixels: bytes, side: int, container: str) -> bytes:
    """One second of sound with the picture as a video stream."""
    target = io.BytesIO()
    with av.open(target, "w", format=container) as file:
        video = file.add_stream("png", rate=1)
        video.width = video.height = side
        video.pix_fmt = "rgb24"
        sound = file.add_stream("pcm_s16le", rate=16_000, layout="mono")
        for index in range(2):
            packet = av.Packet(pixels)
            packet.stream, packet.pts, packet.dts, packet.time_base = video, index, index, Fraction(1)
            file.mux(packet)
        frame = av.AudioFrame.from_ndarray(np.full((1, 16_000), 999, np.int16), format="s16", layout="mono")
        frame.sample_rate, frame.pts = 16_000, 0
        for packet in [*sound.encode(frame), *sound.encode(None)]:
            file.mux(packet)
    return target.getvalue()


@needs_proc
@pytest.mark.parametrize("container", ["mov", "avi"])
def test_pictures_inside_a_recording_are_never_decoded(container):
    data = beside(picture(8_000), 8_000, container)  # 192 MB
    assert len(data) < 4 << 20
    assert decode(data, rate=16_000, limits=Limits(60, 8 << 20)).receipt.seconds > 0.9
    assert megabytes(data) < 60


@needs_proc
@pytest.mark.parametrize("channels", [1, 8])
def test_a_long_silence_takes_what_its_seconds_take_at_the_models_rate(channels):
    data = by_soundfile(np.zeros((8_000 * 590, channels), np.int16), 8_000, "FLAC")
    assert megabytes(data) < 120  # 590 s at 16 kHz are 38 MB


@needs_proc
def test_the_highest_rate_and_many_channels_are_bounded():
    data = by_soundfile(np.zeros((192_000 * 8, 8), np.int16), 192_000, "FLAC")
    assert megabytes(data) < 100


def test_seconds_count_at_the_rate_of_the_file():
    with pytest.raises(TooLarge, match=r"longer than 10 s"):
        decode(wav_header(40_000, 1_000) + pcm16(np.zeros(20_000)), rate=16_000, limits=Limits(10, 1 << 20))


@pytest.mark.parametrize("rate", [1, 10, 100, 999, 800_000, 0x7FFF_FFFF])
def test_rates_that_no_sound_has_are_refused(rate):
    with pytest.raises(AudioError, match=r"samples per second|no samples"):
        decode(wav_header(3_200, rate) + bytes(range(160)) * 20, rate=16_000, limits=Limits(60, 1 << 20))


@pytest.mark.parametrize(
    "name", ["PAF", "SVX", "NIST", "VOC", "IRCAM", "PVF", "HTK", "SDS", "AVR", "MAT4", "MAT5", "WVE", "XI"]
)
def test_rare_formats_of_libsndfile_are_never_opened(name, monkeypatch):
    import soundfile

    codec = {"XI": "DPCM_16", "WVE": "ALAW"}.get(name, "PCM_16")
    rate = 8_000 if name == "WVE" else 44_100 if name == "XI" else 16_000
    data = by_soundfile(np.zeros(2_000), rate, name, codec)
    monkeypatch.setattr(soundfile, "SoundFile", lambda *_, **__: pytest.fail("libsndfile opened it"))
    with pytest.raises(AudioError):
        decode(data, rate=16_000, limits=Limits(60, 1 << 20))
